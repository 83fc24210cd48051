"""What every backend promises, on every graph of a bundle: the real one, and the one for tests of applications."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import GraphEntry
from stc_runtime import Bundle
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.store import cut
from stc_runtime.dtypes import carrier, narrowed, widened
from stc_runtime.testing import FakeBackend
from tests.runtime.backends.fake_trt import any_shape, fake_backend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stc_runtime.backends.base import Backend, Engine

Arrays = dict[str, np.ndarray]

BACKENDS: dict[str, Callable[[Bundle, Path], Backend]] = {
    "ort": lambda _bundle, _folder: OrtBackend(threads=1),
    "trt": lambda bundle, folder: fake_backend(bundle, folder, any_shape),
    "fake": lambda _bundle, _folder: FakeBackend(),
}
GRAPHS = [
    *(("cacher_gate", "default"), ("vit", "gate"), ("vit", "per_layer"), ("vit", "shared"), ("llm", "default")),
    *(("pruner", "none"), ("pruner", "random"), ("pruner", "stc_gaussian"), ("pruner", "stc_dual_anchor")),
    *(("pruner", "stride"), ("pruner", "vidcom2"), ("pruner", "vcast"), ("pruner", "evs")),
]
LETTERS = {"R": 6, "K": 4, "W": 3, "S": 5, "P": 7}


class Case:
    """An open graph, with arrays to feed it."""

    def __init__(self, root: Path, graph: GraphEntry, backend: Backend) -> None:
        self.root, self.graph, self.backend = root, graph, backend
        self.engine: Engine = backend.open(root, graph)

    def feeds(self, seed: int = 0, **letters: int) -> Arrays:
        return {spec.name: self._array(spec, np.random.default_rng(seed), letters) for spec in self.graph.inputs}

    def buffers(self, **letters: int) -> Arrays:
        return {s.name: np.full(shape_of(s.shape, letters), 7, carrier(s.dtype)) for s in self.graph.outputs}

    def _array(self, spec: Any, random: np.random.Generator, letters: dict[str, int]) -> np.ndarray:
        shape = shape_of(spec.shape, letters)
        if spec.name == "indices":
            return np.sort(random.permutation(25)[: shape[0]])
        if spec.name == "position_ids":
            return np.arange(100, 100 + shape[1])[None]
        if spec.name == "past_bias":
            return narrowed(np.where(np.arange(shape[1]) < 4, 0, -65504)[None], carrier(spec.dtype))
        if spec.name == "history_weights":
            return np.full(shape, 1 / shape[0], np.float32)
        if spec.dtype == "uint8":
            return random.integers(0, 256, shape, np.uint8)
        return narrowed(random.normal(size=shape), carrier(spec.dtype))


def shape_of(shape: tuple[int | str, ...], letters: dict[str, int]) -> tuple[int, ...]:
    known = {**LETTERS, **letters}
    return tuple(known[size] if isinstance(size, str) else size for size in shape)


def same(found: Arrays, expected: Arrays) -> bool:
    """Equal in every bit."""
    return found.keys() == expected.keys() and all(found[k].tobytes() == expected[k].tobytes() for k in found)


def copies(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


@pytest.fixture(scope="module", params=["tiny_bundle", "tiny_bundle_fp16", "runnable_bundle_bf16"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.getfixturevalue(request.param))


@pytest.fixture(scope="module", params=BACKENDS)
def case_of(
    bundle: Bundle, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, str]], Case]:
    backend = BACKENDS[request.param](bundle, tmp_path_factory.mktemp("plans"))
    return cache(lambda which: Case(bundle.root, bundle.manifest.graph(*which), backend))


@pytest.fixture(scope="module", params=GRAPHS, ids="-".join)
def case(case_of: Callable[[tuple[str, str]], Case], request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


def test_outputs_have_the_declared_names_types_and_shapes(case: Case) -> None:
    for letters in ({}, dict.fromkeys("RKWSP", 1)):
        outputs = case.engine.run(case.feeds(**letters), {})
        wanted = {s.name: (carrier(s.dtype).name, shape_of(s.shape, letters)) for s in case.graph.outputs}
        assert {name: (array.dtype.name, array.shape) for name, array in outputs.items()} == wanted
        assert all(np.isfinite(widened(array)).all() for array in outputs.values())


def test_outputs_in_place_are_the_same_numbers_and_are_not_returned(case: Case) -> None:
    fresh = case.engine.run(case.feeds(), {})
    into = case.buffers()
    assert case.engine.run(case.feeds(), into) == {}
    assert same(into, fresh)


def test_some_outputs_in_place_and_the_others_returned(case: Case) -> None:
    fresh = case.engine.run(case.feeds(), {})
    into = dict(list(case.buffers().items())[1::2])
    rest = case.engine.run(case.feeds(), into)
    assert rest.keys() == fresh.keys() - into.keys()
    assert same({**rest, **into}, fresh)


def test_outputs_may_be_parts_of_slots(case_of: Callable[[tuple[str, str]], Case]) -> None:
    """Each head of a cache has more slots than the new tokens need; those beside them stay as they were."""
    case = case_of(("llm", "default"))
    fresh = case.engine.run(case.feeds(), {})
    caches = {
        name: np.full((*array.shape[:2], 9, array.shape[3]), 3, array.dtype)
        for name, array in fresh.items()
        if name != "logits"
    }
    count = fresh["key_0_out"].shape[2]
    into = {name: cut(slots, 4, count) for name, slots in caches.items()}
    assert case.engine.run(case.feeds(), into).keys() == {"logits"}
    for name, slots in caches.items():
        assert slots[:, :, 4 : 4 + count].tobytes() == fresh[name].tobytes()
        assert (np.delete(slots, np.s_[4 : 4 + count], axis=2) == 3).all()


@pytest.mark.parametrize("recomputed", [1, 6, 25])
@pytest.mark.parametrize("selection", ["gate", "per_layer", "shared"])
def test_cache_updated_in_place_is_the_cache_that_would_be_returned(
    case_of: Callable[[tuple[str, str]], Case], selection: str, recomputed: int
) -> None:
    case = case_of(("vit", selection))
    feeds = case.feeds(R=recomputed)
    expected = case.engine.run(copies(feeds), {})
    state = {name for name in feeds if name.endswith("_in")}
    features = np.zeros((25, 32), feeds["patch_embeddings"].dtype)
    into = {"features": features, **{name.replace("_in", "_out"): feeds[name] for name in state}}
    assert case.engine.run(feeds, into) == {}
    assert same(into, expected)


def test_engine_keeps_nothing_between_runs_and_changes_no_input(case: Case) -> None:
    feeds = case.feeds(seed=1)
    before = copies(feeds)
    first = case.engine.run(feeds, {})
    kept = copies(first)
    case.engine.run(case.feeds(seed=2), {})
    assert same(feeds, before)
    assert same(first, kept), "a later run must not write into arrays that were handed out"
    assert same(case.engine.run(feeds, {}), kept)


def test_threads_may_share_an_engine(case: Case) -> None:
    expected = [case.engine.run(case.feeds(seed), {}) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: case.engine.run(case.feeds(seed % 4), {}), range(16)))
    assert all(same(outputs, expected[number % 4]) for number, outputs in enumerate(found))


def without(arrays: Arrays, name: str) -> Arrays:
    return {key: array for key, array in arrays.items() if key != name}


def strided(array: np.ndarray) -> np.ndarray:
    """The same numbers in memory that is not contiguous."""
    wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


WRONG: dict[str, tuple[Callable[[Arrays, Arrays, str, str], tuple[Arrays, Arrays]], str]] = {
    "input missing": (lambda f, i, x, _: (without(f, x), i), "the input {x} is missing"),
    "input unknown": (lambda f, i, x, _: ({**f, "more": f[x]}, i), "there is no input more"),
    "input type": (lambda f, i, x, _: ({**f, x: f[x].astype(np.float64)}, i), "{x} is float64"),
    "input rank": (lambda f, i, x, _: ({**f, x: f[x][None]}, i), "{x} is"),
    "input size": (lambda f, i, x, _: ({**f, x: np.concatenate([f[x], f[x]])}, i), "{x} is"),
    "input strides": (lambda f, i, x, _: ({**f, x: strided(f[x])}, i), "{x} is"),
    "output unknown": (lambda f, i, x, y: (f, {**i, "more": i[y]}), "there is no output more"),
    "output type": (lambda f, i, x, y: (f, {**i, y: i[y].astype(np.int32)}), "{y} is int32"),
    "output size": (lambda f, i, x, y: (f, {**i, y: np.concatenate([i[y], i[y]])}), "{y} is"),
    "output strides": (lambda f, i, x, y: (f, {**i, y: strided(i[y])}), "{y} is"),
    "output read-only": (lambda f, i, x, y: (f, {**i, y: read_only(i[y])}), "{y} is read-only"),
}


@pytest.mark.parametrize("wrong", list(WRONG.values()), ids=list(WRONG))
def test_wrong_arrays_raise_before_anything_is_written(
    case: Case, wrong: tuple[Callable[[Arrays, Arrays, str, str], tuple[Arrays, Arrays]], str]
) -> None:
    act, message = wrong
    feeds, into = case.feeds(), case.buffers()
    # The last of each: all others are right and could have been written by then.
    x = [spec.name for spec in case.graph.inputs if spec.name not in {"alpha", "carrier"}][-1]
    y = case.graph.outputs[-1].name
    feeds, into = act(feeds, into, x, y)
    before = copies(into)
    with pytest.raises(ValueError, match=message.format(x=x, y=y)) as caught:
        case.engine.run(feeds, into)
    assert str(caught.value).startswith(f"{case.graph.file}: ")
    assert same(into, before)


@pytest.mark.parametrize(
    ("which", "name", "letter"),
    [
        (("llm", "default"), "position_ids", "S"),
        (("llm", "default"), "value_1_in", "P"),
        (("pruner", "stc_gaussian"), "history_weights", "W"),
    ],
)
def test_inputs_that_disagree_about_a_letter_raise(
    case_of: Callable[[tuple[str, str]], Case], which: tuple[str, str], name: str, letter: str
) -> None:
    case = case_of(which)
    feeds = {**case.feeds(), name: case.feeds(**{letter: 2})[name]}
    with pytest.raises(ValueError, match=rf"{name} is .*{letter} = {LETTERS[letter]}"):
        case.engine.run(feeds, {})


def test_open_without_the_file_raises(case: Case, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        case.backend.open(tmp_path, case.graph)
    assert case.graph.file in caught.value.problem
