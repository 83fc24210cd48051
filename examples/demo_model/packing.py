"""Many questions about a clip in one pass of the LLM; each sees the frames up to its own time and no other question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stc_export.world.questions import LETTERS, TEMPLATES, Question

PREFIX = "<|im_start|>user "
SUFFIX = "<|im_end|><|im_start|>assistant\n"
#: Name of :func:`packed_attention` in transformers.
ATTENTION = "packed"
#: Where a visual token or the newline token goes, and what fills up a batch.
_VISUAL, _NEWLINE, _PADDING = -1, -2, 0


class Wording:
    """From questions to token ids.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.prefix: list[int] = tokenizer.encode(PREFIX).ids
        self.letters: list[int] = [tokenizer.encode(letter).ids[0] for letter in LETTERS]
        self.end: int = tokenizer.encode(SUFFIX).ids[0]
        values = {value for template in TEMPLATES for value in template.values}
        self.words: dict[str, int] = {value: tokenizer.encode(f" {value}").ids[-1] for value in values}
        self.mark: int = tokenizer.encode("now?\n").ids[-1]
        self._behind_option = [*(tokenizer.encode(f" {letter}").ids[0] for letter in LETTERS[1:]), self.end]

    def options(self, ids: list[int]) -> list[int]:
        """Return where the last token of each of the four options stands."""
        return [ids.index(token) - 1 for token in self._behind_option]

    def ids(self, question: Question) -> list[int]:
        """Return the ids from behind the newline token to the place where the answer begins."""
        ids: list[int] = self._tokenizer.encode(f"\n{question.prompt}{SUFFIX}").ids
        return ids


@dataclass(frozen=True)
class Batch:
    """B clips with Q questions each, as sequences of S = V + Q * L tokens: the context, then the questions.

    Attributes:
        ids: int64 [B, S]; negative where no id of the tokenizer stands.
        positions: int64 [B, S].
        last: int64 [N]: index into the flattened [B * S] of the last visual token of each frame of each clip.
        marks: int64 [B * Q]: the same for the end of each question's text.
        places: int64 [B * Q]: the same for where each answer is predicted; the answer itself stands behind it.
        options: int64 [B * Q, 4]: the same for the last token of each option.
        mask: bool [B * Q, 1, L, V + L]: which tokens of the context and of itself a question's tokens see.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor
    marks: torch.Tensor
    places: torch.Tensor
    options: torch.Tensor
    mask: torch.Tensor

    @property
    def visual(self) -> torch.Tensor:
        """Where the visual tokens are: bool [B * S]."""
        return self.ids.flatten() == _VISUAL


def pack(wording: Wording, kept: list[list[int]], questions: list[list[Question]]) -> Batch:
    """Lay out a batch.

    Args:
        wording: The tokenizer's words.
        kept: Visual tokens of each frame of each clip, at least 1.
        questions: The same number for each clip. The letter of the right answer follows each, so that the end of an
            answer can be learned too.
    """
    prefix = len(wording.prefix)
    context = max(prefix + sum(frames) for frames in kept)
    words = [[[_NEWLINE, *wording.ids(q), wording.letters[q.right]] for q in asked] for asked in questions]
    length = max(len(ids) for asked in words for ids in asked)
    size = context + len(questions[0]) * length
    rows, positions, last, marks, places, options, seen = [], [], [], [], [], [], []
    for number, (frames, asked) in enumerate(zip(kept, words, strict=True)):
        ends = prefix + np.cumsum(frames)
        row = [*wording.prefix, *[_VISUAL] * sum(frames)]
        row += [_PADDING] * (context - len(row))
        position = list(range(context))
        last += [number * size + int(end) - 1 for end in ends]
        for question, ids in zip(questions[number], asked, strict=True):
            marks.append(number * size + len(row) + ids.index(wording.mark))
            places.append(number * size + len(row) + len(ids) - 2)
            options.append([number * size + len(row) + place for place in wording.options(ids)])
            seen.append(int(ends[question.frame]))
            row += ids + [_PADDING] * (length - len(ids))
            position += range(seen[-1], seen[-1] + length)
        rows.append(row)
        positions.append(position)
    sees_context = torch.arange(context) < torch.tensor(seen)[:, None, None]
    mask = torch.cat([sees_context.expand(-1, length, -1), _causal(length).expand(len(seen), -1, -1)], dim=-1)
    arrays = [torch.tensor(values) for values in (rows, positions, last, marks, places, options)]
    return Batch(*arrays, mask=mask[:, None])


def _causal(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def embed(model: Any, batch: Batch, visual: torch.Tensor) -> torch.Tensor:
    """Return the LLM's input: float32 [B, S, D].

    Args:
        model: The LLaVA-OneVision model.
        batch: What is packed.
        visual: Visual tokens of all clips one after another, float32 [sum of kept, D].
    """
    inputs = model.get_input_embeddings()(batch.ids.clamp(min=0))
    inputs = torch.where((batch.ids == _NEWLINE)[..., None], model.model.image_newline, inputs)
    return inputs.masked_scatter((batch.ids == _VISUAL)[..., None], visual)


def packed_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, None]:
    """Attention of a :class:`Batch` (``mask`` is its mask) without the products that its mask would throw away.

    Args:
        module: The attention layer.
        query: [B, heads, S, d].
        key: [B, KV heads, S, d].
        value: [B, KV heads, S, d].
        mask: bool [B * Q, 1, L, V + L].

    Returns:
        [B, S, heads, d], and no weights.
    """
    clips, total, length = query.shape[0], query.shape[2], mask.shape[2]
    context, asked = mask.shape[3] - length, mask.shape[0] // clips
    key, value = (states.repeat_interleave(module.num_key_value_groups, dim=1) for states in (key, value))
    seen = functional.scaled_dot_product_attention(*(x[:, :, :context] for x in (query, key, value)), is_causal=True)

    def each(states: torch.Tensor) -> torch.Tensor:
        """[B, heads, Q * L, d] to [B * Q, heads, L, d]."""
        split = states[:, :, context:].unflatten(2, (asked, length))
        return split.transpose(1, 2).flatten(0, 1)

    def behind(states: torch.Tensor) -> torch.Tensor:
        """The context before each question: [B * Q, heads, V + L, d]."""
        return torch.cat([states[:, :, :context].repeat_interleave(asked, dim=0), each(states)], dim=2)

    answers = functional.scaled_dot_product_attention(each(query), behind(key), behind(value), attn_mask=mask)
    answers = answers.unflatten(0, (clips, asked)).transpose(1, 2).flatten(2, 3)
    out = torch.cat([seen, answers], dim=2)
    assert out.shape[2] == total
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
