"""What one admin port says for several workers."""

from headrace.observe.merging import merged_exposition

ONE = """\
# HELP headrace_source_lag_events Events that wait
# TYPE headrace_source_lag_events gauge
headrace_source_lag_events{source="kafka:orders"} 23.0
headrace_source_lag_events{source="nats:orders"} 50.0
# HELP headrace_rebalances_total Times that partitions were handed out
# TYPE headrace_rebalances_total counter
headrace_rebalances_total{source="kafka:orders"} 1.0
"""


def test_the_lag_of_a_source_with_partitions_is_added_and_that_of_one_that_all_see_is_not() -> None:
    _, body = merged_exposition([ONE, ONE.replace("23.0", "27.0")], "text/plain")
    lines = body.decode().splitlines()
    assert 'headrace_source_lag_events{source="kafka:orders"} 50.0' in lines
    assert 'headrace_source_lag_events{source="nats:orders"} 50.0' in lines
    assert 'headrace_rebalances_total{source="kafka:orders"} 2.0' in lines
