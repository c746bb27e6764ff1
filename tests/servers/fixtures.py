"""Fixtures that hand a running server to a test."""
