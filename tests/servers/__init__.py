"""The real servers of the tests, one file a server. ``python -m tests.servers NAME`` starts one in the foreground."""
