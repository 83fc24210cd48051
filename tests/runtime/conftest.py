"""Bundles beside the checkpoints that they were built from."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stc_runtime import Model
from stc_runtime.backends.ort import OrtBackend
from tests.runtime.scenes import Recorder, Workshop

if TYPE_CHECKING:
    from tests.reference.eager_stream import Reference


@dataclass(frozen=True)
class Pair:
    """A bundle, and transformers' model of the same checkpoint."""

    bundle: Path
    reference: Reference


@pytest.fixture(scope="session", params=["tiny", "untied", "siglip"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each of the three layouts: tied, untied with an earlier feature layer, and real vision sizes."""
    return made_pair(request, request.param)


@pytest.fixture(scope="session", params=["tiny", "tiny_modern"])
def flavour_pair(request: pytest.FixtureRequest) -> Pair:
    """The tiny checkpoint in both flavours."""
    return made_pair(request, request.param)


@pytest.fixture(scope="session", params=["tiny_kv", "tiny_kv_modern"])
def coded_pair(request: pytest.FixtureRequest) -> Pair:
    """The tiny checkpoint in both flavours, with keys and values in 8 bits."""
    return made_pair(request, request.param)


@pytest.fixture(scope="session")
def tiny_pair(request: pytest.FixtureRequest) -> Pair:
    return made_pair(request, "tiny")


def made_pair(request: pytest.FixtureRequest, name: str) -> Pair:
    from tests.reference.eager_stream import Reference

    return Pair(
        request.getfixturevalue(f"{name}_bundle"),
        Reference(request.getfixturevalue(f"{name.partition('_')[0]}_checkpoint")),
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle: Path) -> Model:
    """The tiny bundle, opened once: sessions share it."""
    return Model.open(tiny_bundle, OrtBackend(threads=1))


@pytest.fixture(scope="module")
def workshop(tiny_bundle: Path) -> Workshop:
    """Sessions on one model, and what their LLM was run for."""
    recorder = Recorder()
    return Workshop(Model.open(tiny_bundle, recorder), recorder)


@pytest.fixture(scope="session")
def cockatoo() -> Path:
    """A real film: a cockatoo turns, comes to the lens and goes back; 14 s."""
    script = Path(__file__).resolve().parents[2] / "examples" / "real_videos.py"
    spec = importlib.util.spec_from_file_location("real_videos_for_streams", script)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    try:
        found: Path = module.fetch("cockatoo")
    except module.FetchError as error:
        pytest.skip(f"the film cannot be fetched: {error.problem}")
    return found
