from __future__ import annotations

import pytest

from stc_export.world import splits
from stc_export.world.splits import Quiz


@pytest.fixture(scope="session")
def quizzes() -> tuple[Quiz, ...]:
    """The test set."""
    return splits.test_set()
