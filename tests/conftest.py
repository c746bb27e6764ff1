"""Rules of every test run.

A skip is a promise not kept. In CI (``CI=true``), or with ``HEADRACE_TEST_NO_SKIP`` set, every skip is a failure;
elsewhere skips are counted at the end, each with its reason, so that a green run never hides what it left out.
"""

import os
from collections import Counter
from collections.abc import Generator

import pytest

pytest_plugins = ["tests.servers.fixtures", "tests.alone"]

_FALSE = {"", "0", "false", "no"}
_skips: Counter[str] = Counter()


def _set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in _FALSE


NO_SKIP = _set("CI") or _set("HEADRACE_TEST_NO_SKIP")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where skips are not allowed, else count it. An expected failure counts as a skip."""
    if not report.skipped:
        return
    reason = _reason(report)
    if hasattr(report, "wasxfail"):
        reason = f"expected failure: {report.wasxfail}"
        if NO_SKIP:
            del report.wasxfail
    if NO_SKIP:
        report.outcome = "failed"
        report.longrepr = f"skipped where no skip is allowed (CI or HEADRACE_TEST_NO_SKIP): {reason}"
    else:
        _skips[reason] += 1


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge(report)
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave ``long`` tests out unless the run asks for them: deselected, not skipped, for they are another target's."""
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skips:
        terminalreporter.section(f"skipped: {sum(_skips.values())}")
        for reason, count in _skips.most_common():
            terminalreporter.write_line(f"{count:5d}  {reason}")
