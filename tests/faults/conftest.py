"""Counts what was tried, and prints the table of docs/reliability.md at the end."""

import collections

import pytest

COLUMNS = ("fault", "exit code", "tried", "result")


@pytest.fixture
def tried(record_property):
    """Records `tried(fault, exit_code, count, result)`, a row of the table."""
    return lambda *row: record_property("fault", row)


def pytest_terminal_summary(terminalreporter):
    rows = collections.OrderedDict()  # (fault, exit code, result): how often
    for report in terminalreporter.getreports("passed"):
        for name, (fault, code, count, result) in report.user_properties:
            if name == "fault" and report.when == "call":
                rows[fault, code, result] = rows.get((fault, code, result), 0) + count
    if not rows:
        return
    terminalreporter.section("what was tried")
    terminalreporter.line(f"| {' | '.join(COLUMNS)} |")
    terminalreporter.line("|---|---|---|---|")
    for (fault, code, result), count in rows.items():
        terminalreporter.line(f"| {fault} | {code} | {count} | {result} |")
