"""Broker URLs and settings."""

import pytest

from headrace import App
from headrace.errors import ConfigurationError, ConnectionFailed
from headrace.kafka import Topic
from headrace.kafka.settings import consumer_options, parse, producer_options


def test_hosts_get_the_usual_port() -> None:
    assert parse("kafka://one,two:9999,[::1],[::2]:7", {}).servers == "one:9092,two:9999,[::1]:9092,[::2]:7"


def test_a_login_means_sasl_and_is_hidden() -> None:
    connection = parse("kafka://alice:p%40ss@one:1", {})
    assert connection.options["sasl.username"] == "alice"
    assert connection.options["sasl.password"] == "p@ss"
    assert connection.options["security.protocol"] == "SASL_PLAINTEXT"
    assert connection.url == "kafka://***@one:1"
    assert "p@ss" not in repr(connection)


def test_certificates_mean_tls() -> None:
    assert (
        parse("kafka://one", {"kafka_ssl_ca_location": "/ca.pem", "nats_creds": "x"}).options["security.protocol"]
        == "SSL"
    )
    assert parse("kafka://a:b@one?ssl.ca.location=/ca.pem", {}).options["security.protocol"] == "SASL_SSL"
    assert (
        parse("kafka://one?security.protocol=PLAINTEXT&ssl.ca.location=x", {}).options["security.protocol"]
        == "PLAINTEXT"
    )


def test_settings_are_spelled_as_in_the_environment_or_as_in_librdkafka() -> None:
    options = parse(
        "kafka://one?linger.ms=7", {"HEADRACE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "linger.ms": "3"}
    ).options
    assert options["sasl.mechanism"] == "SCRAM-SHA-512"
    assert options["linger.ms"] == "7"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://",
        "nats://one",
        "kafka://one/path",
        "one:9092",
        "kafka://one:notaport",
        "kafka://one:99999",
        "kafka://[::1]:0",
    ],
)
def test_what_is_no_kafka_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Kafka address"):
        parse(url, {})


@pytest.mark.parametrize(
    "option", ["enable.auto.commit", "acks", "group.id", "auto.offset.reset", "enable.idempotence"]
)
def test_options_that_break_the_promise_are_refused_by_name(option: str) -> None:
    with pytest.raises(ConfigurationError, match=option):
        parse(f"kafka://one?{option}=x", {})


def test_a_secret_is_not_in_the_message_of_a_refusal() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("kafka://alice:secret@one?acks=0&sasl.password=secret", {})
    assert "secret" not in str(caught.value)


def test_each_client_gets_its_own_options_only() -> None:
    connection = parse("kafka://one?linger.ms=9&session.timeout.ms=7000&socket.timeout.ms=5000", {})
    consumer = consumer_options(connection, {}, group="g")
    producer = producer_options(connection)
    assert consumer["session.timeout.ms"] == "7000"
    assert "linger.ms" not in consumer
    assert producer["linger.ms"] == "9"
    assert "session.timeout.ms" not in producer
    assert consumer["socket.timeout.ms"] == producer["socket.timeout.ms"] == "5000"


def test_the_new_group_protocol_is_sent_none_of_the_settings_that_it_refuses() -> None:
    connection = parse("kafka://one?session.timeout.ms=7000", {})
    config = consumer_options(connection, {"group.protocol": "consumer"}, group="g")
    assert config["group.protocol"] == "consumer"
    assert not {"session.timeout.ms", "partition.assignment.strategy", "heartbeat.interval.ms"} & set(config)


@pytest.mark.parametrize(
    "option",
    [
        "no.such.option=5",
        "socket.timeout.ms=soon",
        "ssl.ca.location=/no/such/file.pem",
        "batch.size=many",
        "session.timeout.ms=abc",
        "max.poll.interval.ms=2000",
        "group.protocol=foo",
    ],
)
async def test_an_option_that_librdkafka_refuses_ends_the_start_at_once(option: str) -> None:
    app = App("shop", broker=f"kafka://127.0.0.1:1?{option}", store="memory://", ready_within=600.0)

    @app.on("order.created")
    async def bill(order: dict[str, str]) -> None: ...

    with pytest.raises(ConfigurationError, match=r"librdkafka refuses .*" + option.partition("=")[0]):
        async with app.running():
            raise AssertionError("it must not run")


def refuse(config: str) -> tuple[str, float]:
    raise RuntimeError(f"no token for {config}")


async def test_a_token_callback_that_raises_ends_the_start_at_once_with_its_reason() -> None:
    options = "sasl.mechanism=OAUTHBEARER&oauth.callback=tests.kafka.test_settings:refuse&sasl.oauthbearer.config=alice"
    app = App("shop", broker=f"kafka://127.0.0.1:1?{options}", store="memory://", ready_within=600.0)

    @app.on("order.created")
    async def bill(order: dict[str, str]) -> None: ...

    with pytest.raises(ConnectionFailed, match=r"oauth\.callback raised RuntimeError: no token for alice"):
        async with app.running():
            raise AssertionError("it must not run")


def test_tokens_that_nothing_would_get_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"OAUTHBEARER needs oauth\.callback"):
        parse("kafka://one?sasl.mechanism=OAUTHBEARER", {})
    parse("kafka://one?sasl.mechanism=OAUTHBEARER&sasl.oauthbearer.method=oidc", {})


@pytest.mark.parametrize(("name", "reason"), [("^a[", "no regular expression"), ("", "letters"), ("a b", "letters")])
def test_what_is_neither_a_topic_nor_a_pattern_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Topic(name)


def test_workers_of_one_supervisor_are_static_members_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = parse("kafka://one", {"kafka_group_instance_id": "replica-1"})
    found = []
    for slot in ("0", "1", "2"):
        monkeypatch.setenv("HEADRACE_SLOT", slot)
        found.append(consumer_options(connection, {}, group="g")["group.instance.id"])
    assert found == ["replica-1", "replica-1.worker-1", "replica-1.worker-2"]
    assert "group.instance.id" not in consumer_options(parse("kafka://one", {}), {}, group="g")
