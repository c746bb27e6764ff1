"""Tests, one room per room of the house; ``tests.servers`` starts the real servers they run against."""
