"""NATS: JetStream streams and core subjects, as sources and sinks. nats-py is imported when a broker is opened."""

from headrace.nats.declarations import Stream, Subject

__all__ = ["Stream", "Subject"]
