"""Frames for streams, a backend that notes what graphs are fed and give, and sessions on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from stc_runtime import Model, Policy, StreamSession
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.store import HostMemory

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stc_export.spec.manifest import GraphEntry
    from stc_runtime.backends.base import Arrays, Backend, Engine

HEIGHT, WIDTH = 96, 128


@lru_cache(maxsize=1)
def photograph() -> NDArray[np.uint8]:
    """A real photograph, 96 x 128."""
    with resources.files("stc_calib").joinpath("data/grace_hopper.jpg").open("rb") as file:
        return np.array(Image.open(file).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def scene(count: int, first: int = 0) -> list[NDArray[np.uint8]]:
    """Frames of a photograph over which a fifth of its width, the face, moves on from frame to frame and around."""
    picture = photograph()
    face = picture[16:48, 50:76]
    frames = []
    for number in range(first, first + count):
        frame = picture.copy()
        top, left = 7 * number % (HEIGHT - 32), 11 * number % (WIDTH - 26)
        frame[top : top + 32, left : left + 26] = face
        frames.append(frame)
    return frames


class Recorder(HostMemory):
    """A backend around another that notes what the LLM is fed besides its cache, its logits, and what pruners keep."""

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend = backend or OrtBackend(threads=1)
        self.calls: dict[str, list[dict[str, NDArray[Any]]]] = {"llm": [], "pruner": []}

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        engine = self.backend.open(root, graph)
        return _Noting(engine, self.calls[graph.role]) if graph.role in self.calls else engine

    def embeds(self) -> list[NDArray[np.float32]]:
        """New tokens [S, D] of all calls of the LLM, oldest first."""
        return [call["inputs_embeds"][0] for call in self.calls["llm"]]

    def logits(self) -> list[NDArray[np.float32]]:
        """Logits [V] of all calls of the LLM."""
        return [call["logits"][0] for call in self.calls["llm"]]

    def positions(self) -> list[list[int]]:
        """Positions of the new tokens of all calls of the LLM."""
        return [call["position_ids"][0].tolist() for call in self.calls["llm"]]

    def past_slots(self) -> list[int]:
        """P of all calls of the LLM: remembered tokens and slots that hold nothing."""
        return [call["past_bias"].shape[1] for call in self.calls["llm"]]

    def kept(self) -> list[list[int]]:
        """Raster indices of the tokens that were kept of each frame."""
        return [call["kept_indices"].tolist() for call in self.calls["pruner"]]


class _Noting:
    def __init__(self, engine: Engine, calls: list[dict[str, NDArray[Any]]]) -> None:
        self._engine = engine
        self._calls = calls

    def run(self, feeds: Arrays, into: Arrays) -> dict[str, NDArray[Any]]:
        outputs = self._engine.run(feeds, into)
        arrays = {**feeds, **outputs}
        names = {"inputs_embeds", "position_ids", "past_bias", "logits", "kept_indices"} & arrays.keys()
        self._calls.append({name: arrays[name].copy() for name in names})
        return outputs


@dataclass
class Workshop:
    """One opened model for all tests of this module, and what its LLM was run for."""

    model: Model
    recorder: Recorder

    def session(self, policy: Policy | None = None) -> StreamSession:
        return StreamSession(self.model, policy)

    def heard(self, action: Callable[[], object]) -> list[bytes]:
        """Do something; returns the logits of all runs of the LLM in it, as they are in memory."""
        first = len(self.recorder.calls["llm"])
        action()
        return [logits.tobytes() for logits in self.recorder.logits()[first:]]


def watch(session: StreamSession, first: int, count: int) -> None:
    """Push frames of the scene, one per second."""
    for number, frame in enumerate(scene(count, first), start=first):
        session.push(frame, float(number))
