"""What tests of an app use: the in-memory app with virtual time and injected faults, the history checker, and the
conformance suites for sources and stores. Nothing here is imported by a running app."""
