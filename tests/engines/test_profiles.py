"""Profiles cover every shape that a stream can ask for, and are fastest where it mostly is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_engines.profiles import InputShapes, Profile, Sizes, profiles_of
from stc_export.spec.manifest import GraphEntry, Manifest, read_manifest
from stc_export.spec.policy import CacherPolicy, MemoryPolicy, Policy, PrunerPolicy

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    """T = 25, M = 9, context 1,024."""
    return read_manifest(tiny_bundle)


def one(profile: Profile, name: str) -> InputShapes:
    return next(shapes for shapes in profile.inputs if shapes.name == name)


def named(manifest: Manifest, role: str, variant: str) -> dict[str, Profile]:
    graph = next(g for g in manifest.graphs if (g.role, g.variant) == (role, variant))
    return {profile.name: profile for profile in profiles_of(graph, manifest)}


def test_static_graph_needs_no_profile(manifest: Manifest) -> None:
    assert profiles_of(manifest.graph("cacher_gate"), manifest) == ()
    assert profiles_of(manifest.graph("pruner", "none"), manifest) == ()


def test_vit_has_a_profile_for_all_tokens_and_one_for_some(manifest: Manifest) -> None:
    tokens = manifest.dims.vision.tokens
    found = named(dataclasses.replace(manifest, policy=Policy(cacher=CacherPolicy(update_ratio=0.25))), "vit", "gate")
    assert list(found) == ["full", "selective"]
    names = ("indices", "gain", "drift")
    assert found["full"].inputs == tuple(InputShapes(n, (tokens,), (tokens,), (tokens,)) for n in names)
    assert found["selective"].inputs == tuple(InputShapes(n, (1,), (round(tokens / 4),), (tokens,)) for n in names)


def test_llm_has_a_profile_for_prefill_and_one_for_decoding(manifest: Manifest) -> None:
    policy = Policy(memory=MemoryPolicy(kv_tokens=300, answer_tokens=200), pruner=PrunerPolicy(keep=1 / 3))
    found = named(dataclasses.replace(manifest, policy=policy), "llm", "default")
    visual, width = manifest.dims.vision.visual_tokens, manifest.dims.text.width
    assert one(found["prefill"], "inputs_embeds") == InputShapes(
        "inputs_embeds", (1, 1, width), (1, round(visual / 3), width), (1, 200, width)
    )
    assert one(found["decode"], "position_ids") == InputShapes("position_ids", (1, 1), (1, 1), (1, 1))
    for profile in found.values():  # 300 + 200 slots; buckets of 64, 128, 192, 256, ...
        assert one(profile, "past_bias") == InputShapes("past_bias", (1, 64), (1, 256), (1, 500))
        assert one(profile, "key_0_in").most[2] == 500


def test_modern_llm_is_dynamic_in_its_new_tokens_only(tiny_modern_bundle: Path) -> None:
    modern = read_manifest(tiny_modern_bundle)
    found = named(modern, "llm", "default")
    assert list(found) == ["prefill", "decode"]
    assert {shapes.name for shapes in found["decode"].inputs} == {"inputs_embeds", "position_ids"}
    assert one(found["prefill"], "position_ids").most == (1, 124)  # the longest question


def test_prefill_is_no_longer_than_the_memory(manifest: Manifest) -> None:
    """What is written in place must have its slots."""
    policy = Policy(memory=MemoryPolicy(kv_tokens=4, answer_tokens=16), pruner=PrunerPolicy(keep=0.3))
    wide = dataclasses.replace(manifest.dims.vision, image_size=1400)
    manifest = dataclasses.replace(manifest, policy=policy, dims=dataclasses.replace(manifest.dims, vision=wide))
    small = dataclasses.replace(policy, pruner=PrunerPolicy(keep=0.001))
    found = named(dataclasses.replace(manifest, policy=small), "llm", "default")
    assert one(found["prefill"], "position_ids") == InputShapes("position_ids", (1, 1), (1, 2), (1, 20))


@pytest.mark.parametrize(("history", "most"), [(1, 64), (16, 64), (100, 100)])
def test_pruner_takes_the_policys_history_and_the_usual_ones(manifest: Manifest, history: int, most: int) -> None:
    changed = dataclasses.replace(manifest, policy=Policy(pruner=PrunerPolicy(history=history)))
    (profile,) = named(changed, "pruner", "stc_dual_anchor").values()
    assert one(profile, "history_weights") == InputShapes("history_weights", (1,), (history,), (most,))
    (mean,) = named(changed, "pruner", "stc_gaussian").values()
    assert one(mean, "history_weights") == InputShapes("history_weights", (1,), (1,), (1,))


@given(
    keep=st.floats(0.001, 1.0),
    ratio=st.floats(0.001, 1.0),
    kv=st.integers(1, 700),
    answer=st.integers(16, 300),
    history=st.integers(1, 500),
)
def test_every_graph_has_ordered_shapes_that_hold_what_a_stream_sends(
    tiny_bundle: Path, keep: float, ratio: float, kv: int, answer: int, history: int
) -> None:
    manifest = read_manifest(tiny_bundle)
    policy = Policy(
        cacher=CacherPolicy(update_ratio=ratio),
        pruner=PrunerPolicy(keep=keep, history=history),
        memory=MemoryPolicy(kv_tokens=kv, answer_tokens=answer),
    )
    manifest = dataclasses.replace(manifest, policy=policy)
    sent = {"R": manifest.dims.vision.tokens, "K": manifest.dims.vision.visual_tokens, "P": kv + answer, "S": answer}
    for graph in manifest.graphs:
        profiles = profiles_of(graph, manifest)
        for profile in profiles:
            for shapes in profile.inputs:
                assert all(0 <= a <= b <= c for a, b, c in zip(shapes.least, shapes.usual, shapes.most, strict=True)), (
                    graph.file,
                    shapes,
                )
        for letter, size in sent.items():
            assert _reaches(graph, profiles, letter, size), (graph.file, letter)


def _reaches(graph: GraphEntry, profiles: tuple[Profile, ...], letter: str, size: int) -> bool:
    places = [(spec.name, spec.shape.index(letter)) for spec in graph.inputs if letter in spec.shape]
    return not places or any(all(one(p, name).most[axis] >= size for name, axis in places) for p in profiles)


@pytest.mark.parametrize("sizes", [(2, 1, 3), (1, 4, 3), (-1, 1, 1)])
def test_sizes_out_of_order_are_a_defect(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        Sizes(*sizes)
