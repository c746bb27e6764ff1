"""Names of spans and their attributes, in one place.

They follow OpenTelemetry's semantic conventions for messaging and CloudEvents, which are in development status: they may
change with a minor release of ours when they change there.
"""

from __future__ import annotations

from typing import Final

INSTRUMENTATION: Final = "headrace"

CREATE: Final = "create"
SEND: Final = "send"
PROCESS: Final = "process"
SETTLE: Final = "settle"

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
BATCH_COUNT: Final = "messaging.batch.message_count"
CONSUMER_GROUP: Final = "messaging.consumer.group.name"

EVENT_ID: Final = "cloudevents.event_id"
EVENT_SOURCE: Final = "cloudevents.event_source"
EVENT_TYPE: Final = "cloudevents.event_type"
EVENT_SUBJECT: Final = "cloudevents.event_subject"
EVENT_SPECVERSION: Final = "cloudevents.event_spec_version"

ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
HANDLER: Final = "headrace.handler"
ATTEMPT: Final = "headrace.attempt"
