"""Prompts that rounding is measured and chosen on: frames and a question, as the LLM reads them uncompressed."""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stc_export.exporter.prompt import write_tokenizer
from stc_export.families.base import Prompt
from stc_export.pipeline.plan import Prepared
from stc_export.validate.demo import quiz_clip
from stc_export.validate.fidelity import QUESTIONS, read_films
from stc_export.validate.types import TaskClip, TaskOptions, TaskQuestion
from stc_export.world.script import write_clip
from stc_export.world.splits import TRAIN, ask_about
from stc_runtime.preprocess import Resizer
from stc_runtime.text import Tokenizer

#: Prompts, and visual tokens of each: as many frames as they are, at least one.
_PROMPTS, _VISUAL_TOKENS = 8, 144


def read_prompts(prepared: Prepared, data: Path | None) -> tuple[Prompt, ...]:
    """Return the prompts of a model.

    Args:
        prepared: The build.
        data: A video, or a folder with videos, of which the questions of task ``fidelity`` are asked; ``None``:
            training clips of the generated world with a question each.

    Raises:
        UsageError: There is no video.
        VideoError: A video cannot be read.
    """
    clips = _world() if data is None else read_films(TaskOptions(data=data, ask=QUESTIONS)).clips
    asked = _spread([(clip, question) for clip in clips for question in clip.questions])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        write_tokenizer(prepared.checkpoint.directory, file)
        tokenizer = Tokenizer.open(file)
    spec = prepared.prompt
    before = tokenizer.encode_prompt(spec.before_video)
    return tuple(
        Prompt(_frames(prepared, clip, one), before, tokenizer.encode_prompt(spec.after_video, one.prompt))
        for clip, one in asked
    )


def digest_prompts(prompts: Sequence[Prompt]) -> str:
    """Return a digest of what is in prompts: size and pixels of each frame, and all token ids."""
    digest = hashlib.sha256()
    for prompt in prompts:
        for frame in prompt.frames:
            digest.update(f"{frame.shape}".encode())
            digest.update(frame.tobytes())
        digest.update(f"{prompt.before} {prompt.after}".encode())
    return digest.hexdigest()


def _world() -> tuple[TaskClip, ...]:
    """Return clips that no test set has."""
    return tuple(quiz_clip(ask_about(write_clip(f"{TRAIN}/{number}"), 1)) for number in range(_PROMPTS))


def _spread(asked: Sequence[tuple[TaskClip, TaskQuestion]]) -> Sequence[tuple[TaskClip, TaskQuestion]]:
    """Return so many at even distances as there are prompts."""
    return asked[:: -(-len(asked) // _PROMPTS)]


def _frames(prepared: Prepared, clip: TaskClip, question: TaskQuestion) -> tuple[NDArray[np.uint8], ...]:
    """Return the last frames before a question, as the model sees them."""
    resize = Resizer(prepared.preprocessing.spec)
    count = max(1, _VISUAL_TOKENS // prepared.model.dims.vision.visual_tokens)
    last: deque[NDArray[np.uint8]] = deque(maxlen=count)
    for frame, seconds in clip.footage.frames():
        if last and seconds > question.at_s:
            break
        last.append(frame)
    return tuple(np.array(resize(frame)) for frame in last)
