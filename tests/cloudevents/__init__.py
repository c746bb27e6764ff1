"""Tests of headrace.cloudevents: the standard's own vectors, the laws, and what must be refused."""
