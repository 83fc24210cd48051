"""What the PyTorch model answers, uncompressed: the reference for everything that is exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from language import run_llm
from packing import Wording, embed, pack
from shape import DIMS, visual_tokens
from tower import normalised, pixels_of

from stc_export.world.questions import LETTERS, Question
from stc_export.world.render import Renderer
from stc_export.world.splits import Quiz


def answer_quiz(model: Any, wording: Wording, quiz: Quiz, *, watch: bool = True) -> list[str]:
    """Return the first token of the answer to each question about a clip, as text; "" if it is none of the letters.

    Args:
        model: The demo model.
        wording: Its tokenizer's words.
        quiz: Clip and questions.
        watch: Whether the model sees the video at all.
    """
    tokens = _watch(model, quiz) if watch else torch.zeros(quiz.clip.frames, 0, DIMS.text.width)
    return answer_tokens(model, wording, tokens, list(quiz.questions))


def _watch(model: Any, quiz: Quiz) -> torch.Tensor:
    frames = np.stack(list(Renderer(quiz.clip).frames()))
    with torch.inference_mode():
        return visual_tokens(model, normalised(torch.from_numpy(pixels_of(frames).copy()).to(model.device)))


def answer_tokens(model: Any, wording: Wording, tokens: torch.Tensor, questions: list[Question]) -> list[str]:
    """Answer questions from the visual tokens of a clip: float32 [F, M, D]."""
    with torch.inference_mode():
        batch = pack(wording, [[tokens.shape[1]] * len(tokens)], [questions])
        final = run_llm(model, batch, embed(model, batch, tokens.flatten(0, 1)))[-1]
        best = model.lm_head(final[batch.places]).argmax(-1).tolist()
    letters = dict(zip(wording.letters, LETTERS, strict=True))
    return [letters.get(token, "") for token in best]
