"""The memory broker's source keeps the contract."""

import pytest

from headrace.engine.sink import Publication
from headrace.memory.broker import MemoryBroker
from headrace.testing.conformance import HistoryConformance


class TestMemorySource(HistoryConformance):
    @pytest.fixture(autouse=True)
    def _broker(self):
        self.broker = MemoryBroker()

    async def make(self, binding):
        return self.broker.channel("conformance", binding)

    async def send(self, events):
        await self.broker.sink("conformance").publish([Publication(event) for event in events])
