"""Kafka: `Topic` as source and sink, channels on a ``kafka://`` broker, dead letters and replays on compacted topics.

Importing this package imports no client: confluent-kafka comes with the first connection (``pip install headrace[kafka]``).
"""

from headrace.kafka.topic import Topic

__all__ = ["Topic"]
