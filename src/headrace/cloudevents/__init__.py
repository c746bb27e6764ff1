"""The CloudEvents standard, without I/O.

Types and their canonical strings, the JSON format, the four protocol bindings, filters and CESQL. Nothing here opens a
socket or reads a clock; every function maps values to values and raises `InvalidEvent` or `InvalidFilter`, nothing
else. Modules are imported by name (`from headrace.cloudevents import http`), so that importing one never pays for the
others.
"""
