"""What is wrong with the options is found out at the start, before any broker is asked: the clients are made once for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import ConnectionFailed
from headrace.kafka.client_log import client_log
from headrace.kafka.faults import refused_configuration

__all__ = ["first_token", "try_consumer"]


def first_token(config: Mapping[str, Any], url: str) -> None:
    """Have the OAUTHBEARER callback, where there is one, get a token: a client would wait ten seconds for it and not say why
    it gets none. Blocking.

    Raises:
        ConnectionFailed: it raises.
    """
    callback = config.get("oauth_cb")
    if callback is None:
        return
    try:
        callback(config.get("sasl.oauthbearer.config", ""))
    except Exception as error:
        raise ConnectionFailed(f"{url}: no token: oauth.callback raised {type(error).__name__}: {error}") from error


def try_consumer(config: Mapping[str, Any], url: str) -> None:
    """Make a consumer, which joins nothing. Blocking.

    Raises:
        ConfigurationError: librdkafka refuses an option. ConnectionFailed: it gets no token.
    """
    from confluent_kafka import Consumer, KafkaException

    try:
        consumer = Consumer({**config, "logger": client_log})
    except KafkaException as error:
        raise refused_configuration(url, error) from error
    consumer.close()
