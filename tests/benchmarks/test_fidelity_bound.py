from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stc_export.spec.dims import VisionDims

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = VisionDims(image_size=56, patch_size=14, width=12, mlp_width=20, heads=2, layers=3)  # T = 16


@pytest.fixture(scope="module")
def bound() -> Iterator[Any]:
    """The script as a module; its neighbours are imported from its own folder, as when it is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("fidelity_bound")
        for name in ("fidelity_bound", "fidelity", "fidelity_policies", "dinov2"):
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def model(bound: Any) -> Any:
    torch.manual_seed(0)
    made = sys.modules["dinov2"].DinoV2(TINY, trained_grid=5).eval()
    for parameter in made.parameters():
        parameter.requires_grad_(False).normal_(0.0, 0.5)
    return made


@pytest.fixture(scope="module")
def clip(bound: Any, model: Any) -> Any:
    """Four frames; the second is the first again."""
    random = np.random.default_rng(1)
    frames = [random.integers(0, 256, (56, 56, 3), dtype=np.uint8) for _ in range(3)]
    embeddings = tuple(model.embed(frames[number]) for number in (0, 0, 1, 2))
    return bound.Clip("vtest", embeddings, tuple(model.dense(one) for one in embeddings))


def made_errors(frames: int, tokens: int) -> torch.Tensor:
    return torch.rand(tokens, frames, frames, generator=torch.Generator().manual_seed(2)).triu(1).permute(1, 2, 0)


def spent(errors: torch.Tensor, chosen: torch.Tensor, price: float) -> float:
    """Errors and price of one token's choice, bool [n], frame by frame."""
    total, then = 0.0, 0
    for now, recomputed in enumerate(chosen.tolist()):
        then = now if recomputed else then
        total += price if recomputed else float(errors[then, now])
    return total


@pytest.mark.parametrize("price", [0.01, 0.3, 0.8, 5.0])
def test_best_choice_is_the_least_of_all_choices(bound: Any, price: float) -> None:
    errors = made_errors(5, 6)
    found = bound.best_choice(errors, price)
    assert found[0].all()
    for token in range(6):
        every = [torch.tensor((True, *rest)) for rest in itertools.product((False, True), repeat=4)]
        least = min(spent(errors[:, :, token], one, price) for one in every)
        assert spent(errors[:, :, token], found[:, token], price) == pytest.approx(least)


def test_best_choice_that_costs_nearly_nothing_recomputes_all_and_a_dear_one_the_first_frame(bound: Any) -> None:
    errors = made_errors(4, 3)
    assert bound.best_choice(errors, 1e-9).all()
    assert bound.cost_of(bound.best_choice(errors, 100.0)) == 0.25


def test_exact_mean_is_that_of_the_newest_delta(bound: Any) -> None:
    errors, chosen = made_errors(3, 2), torch.tensor([[True, True], [True, False], [False, False]])
    wrong = errors[0, 1, 1] + errors[1, 2, 0] + errors[0, 2, 1]
    assert bound.exact_mean(errors, chosen) == pytest.approx(1 - float(wrong) / 6)


def test_closest_stays_below_its_cost_and_cheapest_reaches_its_fidelity(bound: Any) -> None:
    errors = made_errors(6, 40)
    chosen = bound.closest(errors, 0.5)
    assert 0.45 <= bound.cost_of(chosen) <= 0.5
    again = bound.cheapest(errors, bound.exact_mean(errors, chosen))
    assert bound.exact_mean(errors, again) >= bound.exact_mean(errors, chosen)
    assert bound.cost_of(again) == pytest.approx(bound.cost_of(chosen), abs=0.01)


def test_stale_errors_are_none_for_a_frame_that_came_again(bound: Any, model: Any, clip: Any) -> None:
    errors = bound.stale_errors(model, clip)
    assert errors[0, 1].abs().max() < 1e-5
    assert errors[0, 2].min() > 1e-4
    assert errors.permute(2, 0, 1).tril().abs().max() == 0


def test_encode_of_all_tokens_is_dense_and_of_none_is_not(bound: Any, model: Any, clip: Any) -> None:
    assert tuple(bound.encode(model, clip, torch.ones(4, 16, dtype=torch.bool))) == pytest.approx((1.0,) * 4, abs=1e-5)
    first = torch.zeros(4, 16, dtype=torch.bool)
    first[0] = True
    found = tuple(bound.encode(model, clip, first))
    assert found[:2] == pytest.approx((1.0, 1.0), abs=1e-5)
    assert max(found[2:]) < 0.999
