"""Counts what was tried, and prints the table of docs/reliability.md at the end."""

import pytest

COLUMNS = ("fault", "exit code", "tried", "seconds", "result")


@pytest.fixture
def tried(record_property):
    """Records `tried(fault, exit_code, count, result)`, a row of the table, with the seconds until
    it had ended, if there is a limit to them."""

    def record(fault, code, count, result, seconds=None):
        record_property("fault", (fault, code, count, result, seconds))

    return record


def pytest_terminal_summary(terminalreporter):
    rows = {}  # (fault, exit code, result): (how often, all seconds)
    for report in terminalreporter.getreports("passed"):
        for name, (fault, code, count, result, seconds) in report.user_properties:
            if name == "fault" and report.when == "call":
                counts, took = rows.setdefault((fault, code, result), ([], []))
                counts.append(count)
                took += [] if seconds is None else [seconds]
    if not rows:
        return
    terminalreporter.section("what was tried")
    terminalreporter.line(f"| {' | '.join(COLUMNS)} |")
    terminalreporter.line("|---" * len(COLUMNS) + "|")
    for (fault, code, result), (counts, took) in rows.items():
        seconds = (
            "–".join(f"{value:.1f}" for value in sorted({min(took), max(took)})) if took else ""
        )
        terminalreporter.line(f"| {fault} | {code} | {sum(counts)} | {seconds} | {result} |")
