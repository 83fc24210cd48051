"""Clips as the second stage sees them: visual tokens of a frozen tower, and what is true at each frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from labels import FACTS, token_facts
from shape import DIMS, visual_tokens
from torch.utils.data import DataLoader, Dataset
from tower import normalised, pixels_of

from stc_export.world.questions import TEMPLATES
from stc_export.world.render import Renderer
from stc_export.world.script import write_clip
from stc_export.world.state import State, tell

IGNORE = -100
#: Every question that can be asked, as (template, subject): the columns of the answers.
ASKED = tuple((place, subject) for place, template in enumerate(TEMPLATES) for subject in range(len(template.subjects)))


@dataclass(frozen=True)
class Encoded:
    """A clip ready for the LLM.

    Attributes:
        name: Name of the clip.
        tokens: Visual tokens, float16 [F, M, D].
        answers: Index into the template's values for each column of :data:`ASKED`, int64 [F, A]; :data:`IGNORE`
            where the question cannot be asked.
        facts: What is in each token (see :func:`labels.token_facts`), int8 [F, M, 1 + facts].
    """

    name: str
    tokens: npt.NDArray[np.float16]
    answers: npt.NDArray[np.int64]
    facts: npt.NDArray[np.int8]


def all_answers(states: Sequence[State]) -> npt.NDArray[np.int64]:
    """Return the answers of a clip (see :class:`Encoded`)."""
    table = np.full((len(states), len(ASKED)), IGNORE)
    for state in states:
        for column, (place, subject) in enumerate(ASKED):
            answer = None if state.shaken else TEMPLATES[place].answer(state, subject)
            if answer is not None:
                table[state.frame, column] = TEMPLATES[place].values.index(answer)
    return table


class Clips(Dataset):  # type: ignore[type-arg]
    """Clips by number: (pixels uint8 [F, 3, H, W], answers, facts)."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Render one."""
        clip = write_clip(self._names[index])
        states, pixels = tell(clip), pixels_of(np.stack(list(Renderer(clip).frames())))
        arrays = (pixels.copy(), all_answers(states), token_facts(clip, states))
        return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]


class Store:
    """Encoded clips in a directory: growing files of tokens, answers and facts, and a list of names and lengths.

    Args:
        directory: Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self._index: list[tuple[str, int, int]] = []
        index = directory / "index.jsonl"
        self._tokens, self._answers, self._facts = (directory / n for n in ("tokens.f16", "answers.i64", "facts.i8"))
        if index.exists():
            self._index = [tuple(json.loads(line)) for line in index.read_text().splitlines()]
        self._directory = directory

    @property
    def lengths(self) -> list[int]:
        """Frames of each clip."""
        return [frames for _, _, frames in self._index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._index)

    def __getitem__(self, number: int) -> Encoded:
        """Read one."""
        name, first, frames = self._index[number]
        own = slice(first, first + frames)
        tokens = self._map(self._tokens, np.float16, (DIMS.vision.visual_tokens, DIMS.text.width))
        return Encoded(name, np.array(tokens[own]), np.array(self.all_answers()[own]), np.array(self.all_facts()[own]))

    def all_answers(self) -> npt.NDArray[np.int64]:
        """Return the answers of all clips one after another: int64 [sum of F, A]."""
        return self._map(self._answers, np.int64, (len(ASKED),))

    def all_facts(self) -> npt.NDArray[np.int8]:
        """Return the facts of all clips one after another: int8 [sum of F, M, 1 + facts]."""
        return self._map(self._facts, np.int8, (DIMS.vision.visual_tokens, 1 + len(FACTS)))

    def _map(self, path: Path, kind: type, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        return np.memmap(path, kind, "r", shape=(sum(self.lengths), *shape))

    def encode(self, model: Any, names: list[str], workers: int, report: Callable[[int, str], None]) -> None:
        """Add what is missing of these clips, which continue those that are there; ``workers`` processes draw."""
        self._directory.mkdir(parents=True, exist_ok=True)
        todo = names[len(self) :]
        batches = DataLoader(Clips(todo), batch_size=None, num_workers=workers)
        for name, (pixels, answers, facts) in zip(todo, batches, strict=True):
            with torch.inference_mode():
                tokens = visual_tokens(model, normalised(pixels.to(model.device))).half().cpu()
            first = self._index[-1][1] + self._index[-1][2] if self._index else 0
            for file, values in ((self._tokens, tokens), (self._answers, answers), (self._facts, facts)):
                _write_at(file, first * values[0].numpy().nbytes, values.numpy())
            self._index.append((name, first, len(tokens)))
            with (self._directory / "index.jsonl").open("a") as lines:
                lines.write(json.dumps(self._index[-1]) + "\n")
            report(len(self), "")


def _write_at(path: Path, offset: int, values: npt.NDArray[Any]) -> None:
    """Write over whatever an interrupted run left behind the last whole clip."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.write(np.ascontiguousarray(values).tobytes())


def epochs(count: int, batch: int, lengths: list[int], rng: np.random.Generator) -> Iterator[list[int]]:
    """Yield batches of clips of similar length, for ever, in random order."""
    while True:
        order = rng.permutation(count)
        chunks = [sorted(order[i : i + 8 * batch], key=lambda n: lengths[n]) for i in range(0, count, 8 * batch)]
        batches = [chunk[i : i + batch] for chunk in chunks for i in range(0, len(chunk), batch)]
        for place in rng.permutation(len(batches)):
            yield [int(n) for n in batches[place]]
