"""Prompts for measuring rounding: which frames, and which questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from stc_export.families.base import Prompt
from stc_export.pipeline.plan import Prepared, prepare
from stc_export.pipeline.prompts import digest_prompts, read_prompts
from stc_export.pipeline.source import Source
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.errors import VideoError
from stc_export.validate.fidelity import QUESTIONS
from stc_export.world.render import Renderer
from stc_export.world.script import write_clip
from stc_export.world.splits import TRAIN, ask_about
from stc_runtime.preprocess import Resizer
from stc_runtime.text import Tokenizer
from stc_runtime.video import read_frames
from tests.videos import write_moving_square

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def build(tiny_checkpoint: Path) -> Prepared:
    return prepare(BuildRequest(""), Source(tiny_checkpoint, "x"))


def test_world_gives_a_training_clip_with_a_question_for_each_prompt(build: Prepared, tiny_checkpoint: Path) -> None:
    """144 visual tokens are 16 frames of 9."""
    prompts = read_prompts(build, None)
    tokenizer, resize = Tokenizer.open(tiny_checkpoint / "tokenizer.json"), Resizer(build.preprocessing.spec)
    assert len(prompts) == 8
    for number, prompt in enumerate(prompts):
        clip = write_clip(f"{TRAIN}/{number}")
        (question,) = ask_about(clip, 1).questions
        frames = list(Renderer(clip).frames())[: question.frame + 1][-16:]
        assert len(prompt.frames) == len(frames)
        for found, frame in zip(prompt.frames, frames, strict=True):
            np.testing.assert_array_equal(found, resize(frame))
        assert question.text in tokenizer.decode(prompt.after)
        assert prompt.before == tokenizer.encode_prompt(build.prompt.before_video)


def test_video_is_asked_the_questions_of_fidelity_at_its_moments(
    build: Prepared, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """9 frames, of which 3, 6 and 9 are before four questions each; every second question is taken."""
    video = write_moving_square(tmp_path / "a.mp4", frames=72)
    prompts = read_prompts(build, video)
    assert [len(prompt.frames) for prompt in prompts] == [3, 3, 6, 6, 9, 9]
    tokenizer, resize = Tokenizer.open(tiny_checkpoint / "tokenizer.json"), Resizer(build.preprocessing.spec)
    with read_frames(video, fps=1.0) as reader:
        frames = [resize(frame).copy() for frame, _ in reader]
    np.testing.assert_array_equal(np.stack(prompts[2].frames), np.stack(frames[:6]))
    texts = [tokenizer.decode(prompt.after) for prompt in prompts]
    assert all(QUESTIONS[number] in text for number, text in zip((0, 2) * 3, texts, strict=True))


def test_video_that_is_none_is_told(build: Prepared, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        read_prompts(build, tmp_path)


def test_digest_is_that_of_every_pixel_and_token() -> None:
    frame = np.zeros((2, 2, 3), np.uint8)
    prompts = [Prompt((frame,), (1, 2), (3,))]
    other = frame.copy()
    other[1, 1, 2] = 1
    changed = [
        [Prompt((other,), (1, 2), (3,))],
        [Prompt((frame.reshape(1, 4, 3),), (1, 2), (3,))],
        [Prompt((frame,), (1,), (2, 3))],
        [Prompt((frame,), (1, 2), (4,))],
        [Prompt((frame, frame), (1, 2), (3,))],
    ]
    digests = [digest_prompts(one) for one in (prompts, list(prompts), *changed)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == len(changed) + 1
