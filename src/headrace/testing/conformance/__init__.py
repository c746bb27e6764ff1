"""Suites that hold a source or a store to the engine's contracts. Anyone's: three lines make a pytest class of one.

    class TestMyStore(LedgerConformance, DurableLedgerConformance, DeadLetterConformance):
        @pytest.fixture(autouse=True)
        def place(self, tmp_path): self.url = f"sqlite:///{tmp_path}/store.db"

Each suite's docstring says what the class must provide. Tests are coroutines: run them with pytest-asyncio in auto mode.
A suite has no optional tests: leave out the suite that does not apply.
"""

from headrace.testing.conformance.ledgers import (
    DurableLedgerConformance,
    LedgerConformance,
    OutageConformance,
    SharedLedgerConformance,
)
from headrace.testing.conformance.records import (
    CheckpointConformance,
    DeadLetterConformance,
    SuspectConformance,
)
from headrace.testing.conformance.sources import (
    DecodingConformance,
    HistoryConformance,
    RetryConformance,
    SettlementConformance,
    SourceConformance,
)

__all__ = [
    "CheckpointConformance",
    "DeadLetterConformance",
    "DecodingConformance",
    "DurableLedgerConformance",
    "HistoryConformance",
    "LedgerConformance",
    "OutageConformance",
    "RetryConformance",
    "SettlementConformance",
    "SharedLedgerConformance",
    "SourceConformance",
    "SuspectConformance",
]
