from __future__ import annotations

import pytest

from tests.stc_export.cli.results import FakePipeline


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    """A fake in place of the modules build, run, bench and validate of the pipeline."""
    fake = FakePipeline()
    fake.install(monkeypatch)
    return fake
