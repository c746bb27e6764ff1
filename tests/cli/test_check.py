"""``headrace check``: the order of each handler's events, in words."""

from pathlib import Path

import pytest

from tests.cli.command import Command

APP = """
from headrace import App, Event
from headrace.kafka import Topic
from headrace.kubernetes import Watch

app = App("orders")


@app.on("order.created"{key})
async def bill(order: dict) -> None: ...


@app.on(Topic("audit", broker="kafka://127.0.0.1:9092"))
async def audit(event: Event) -> None: ...


@app.on(Watch("pods"))
async def pod_changed(event: Event) -> None: ...
"""


@pytest.mark.parametrize(
    ("broker", "key", "order", "waiting"),
    [
        ("nats://127.0.0.1:4222", "", "in no order", "others pass it"),
        ("nats://127.0.0.1:4222", ', key="customer"', "in order per key", "its lane waits"),
        ("kafka://127.0.0.1:9092", "", "in order per record key", "its lane waits"),
        ("kafka://127.0.0.1:9092", ', key="customer"', "in order per key", "its lane waits"),
    ],
)
def test_the_order_of_a_channel_is_the_brokers_unless_a_key_is_named(
    tmp_path: Path, broker: str, key: str, order: str, waiting: str
) -> None:
    (tmp_path / "orders_app.py").write_text(APP.format(key=key))
    bill, audit, pods = Command(tmp_path, HEADRACE_BROKER=broker)("check", "orders_app.py").out.splitlines()[:3]
    assert f"reads order.created, {order}, " in bill
    assert f"waits for a retry, {waiting};" in bill
    assert "in order per record key, " in audit
    assert "in order per object, " in pods
