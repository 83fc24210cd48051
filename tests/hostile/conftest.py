"""Says at the end how many attacks were met."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the attacks of the tests that ran, and those that every command refused."""
    names = {
        outcome: {
            report.nodeid.partition("[")[2]
            for report in terminalreporter.stats.get(outcome, ())
            if "test_attack_is_refused" in report.nodeid
        }
        for outcome in ("passed", "failed", "error")
    }
    met = set().union(*names.values())
    if met:
        terminalreporter.write_line(f"{len(met)} attacks: {len(met - names['failed'] - names['error'])} refused")
