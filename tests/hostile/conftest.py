"""Says at the end how many attacks were met."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the tests of the table that ran, and those that passed."""
    name = "test_attack_is_refused"
    ran = {
        key: sum(name in report.nodeid for report in reports if isinstance(report, pytest.TestReport))
        for key, reports in terminalreporter.stats.items()
        if key in ("passed", "failed")
    }
    if ran:
        terminalreporter.write_line(f"{sum(ran.values())} attacks: {ran.get('passed', 0)} refused")
