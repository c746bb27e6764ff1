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


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HEADRACE_BROKER": "amqp://x"}, "unknown URL scheme 'amqp'"),
        ({"HEADRACE_STORE": "mysql://x"}, "unknown URL scheme 'mysql'"),
        ({"HEADRACE_DEAD_LETTERS": "shoebox://x"}, "unknown URL scheme 'shoebox'"),
        ({"HEADRACE_LOG": "loud"}, "HEADRACE_LOG='loud' is not one of"),
        ({"HEADRACE_ADMIN": "here:there"}, "admin is host:port"),
        ({"HEADRACE_NATS_STREAM_REPLICAS": "many"}, "nats_stream_replicas is 'many'"),
    ],
)
def test_what_run_would_refuse_check_refuses(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    (tmp_path / "orders_app.py").write_text(APP.format(key=""))
    done = Command(tmp_path, **{"HEADRACE_BROKER": "nats://127.0.0.1:4222", **variables})("check", "orders_app.py")
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("wrong", ['"a b..c>"', '"order.created", start="middle"'])
def test_check_refuses_what_the_broker_cannot_have(tmp_path: Path, wrong: str) -> None:
    text = f"from headrace import App\napp = App('shop')\n@app.on({wrong})\nasync def bill(order: dict) -> None: ...\n"
    (tmp_path / "shop_app.py").write_text(text)
    done = Command(tmp_path, HEADRACE_BROKER="nats://127.0.0.1:4222")("check", "shop_app.py")
    assert done.code == 2, done.out


def test_check_shows_the_settings_of_the_transport_and_where_they_came_from(tmp_path: Path) -> None:
    (tmp_path / "orders_app.py").write_text(APP.format(key=""))
    variables = {"HEADRACE_NATS_STREAM_REPLICAS": "3", "HEADRACE_NATS_PASSWORD": "s3cret", "HEADRACE_NATS_USER": "me"}
    done = Command(tmp_path, HEADRACE_BROKER="nats://127.0.0.1:4222", **variables)("check", "orders_app.py", "--json")
    shown = {line["setting"]: (line["value"], line["origin"]) for line in done.objects if "setting" in line}
    assert shown["nats_stream_replicas"] == ("3", "environment")
    assert shown["nats_password"] == ("***", "environment")
    assert "s3cret" not in done.out


def test_check_shows_the_settings_of_the_broker_that_are_not_set(tmp_path: Path) -> None:
    (tmp_path / "orders_app.py").write_text(APP.format(key=""))
    variables = {"HEADRACE_BROKER": "kafka://127.0.0.1:9092", "HEADRACE_KAFKA_REPLICATION": "3"}
    done = Command(tmp_path, **variables)("check", "orders_app.py", "--json")
    shown = {line["setting"]: (line["value"], line["origin"]) for line in done.objects if "setting" in line}
    assert shown["kafka_partitions"] == ("12", "default")
    assert shown["kafka_replication"] == ("3", "environment")


def test_check_of_a_broker_that_is_not_there_ends_with_4(tmp_path: Path) -> None:
    (tmp_path / "shop_app.py").write_text(
        "from headrace import App\napp = App('shop')\n@app.on('a.b')\nasync def bill(order: dict) -> None: ...\n"
    )
    variables = {"HEADRACE_BROKER": "nats://127.0.0.1:1", "HEADRACE_READY_WITHIN": "0.5"}
    assert Command(tmp_path, **variables)("check", "shop_app.py", "--connect").code == 4
