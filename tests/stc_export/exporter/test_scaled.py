"""A checkpoint with factors folded in: the same numbers whole and in blocks, by numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from stc_export.exporter.checkpoint import read_checkpoint
from stc_export.exporter.scaled import ScaledCheckpoint

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLUMNS = (np.random.default_rng(seed).random(n, np.float32) + 0.5 for seed, n in ((0, 7), (1, 5)))


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> ScaledCheckpoint:
    folder: Path = tmp_path_factory.mktemp("scaled")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    torch.manual_seed(0)
    tensors = {name: torch.randn(7, 5).half() for name in ("both", "rows", "columns", "none")}
    save_file({**tensors, "vector": torch.randn(7)}, folder / "model.safetensors")
    base = read_checkpoint(folder, lambda key: key)
    rows, columns = dict.fromkeys(("both", "rows", "vector"), ROWS), dict.fromkeys(("both", "columns"), COLUMNS)
    return ScaledCheckpoint(base.directory, base.config, base.tensors, rows, columns)


def expected(scaled: ScaledCheckpoint, name: str) -> np.ndarray:
    original = read_checkpoint(scaled.directory, lambda key: key).read(name).float().numpy()
    factors = {
        "both": np.outer(ROWS, COLUMNS),
        "rows": ROWS[:, None],
        "columns": COLUMNS[None],
        "none": np.float32(1),
        "vector": ROWS,
    }
    return original * factors[name]


@pytest.mark.parametrize("name", ["both", "rows", "columns", "none", "vector"])
def test_tensor_is_multiplied_by_its_factors(scaled: ScaledCheckpoint, name: str) -> None:
    np.testing.assert_allclose(scaled.read(name).float().numpy(), expected(scaled, name), rtol=1e-6)


def test_tensor_without_factors_keeps_its_type(scaled: ScaledCheckpoint) -> None:
    assert scaled.read("none").dtype == torch.float16


@given(name=st.sampled_from(["both", "rows", "columns", "none", "vector"]), block_bytes=st.integers(1, 300))
def test_blocks_of_any_size_join_to_the_whole(scaled: ScaledCheckpoint, name: str, block_bytes: int) -> None:
    joined = torch.cat(list(scaled.read_blocks(name, block_bytes)))
    assert torch.equal(joined, scaled.read(name))
