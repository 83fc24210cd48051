"""What a stream answers, from transformers' modules: the whole model at once, or its LLM with a memory that forgets.

:class:`EagerStream` is the documented meaning of the memory, the obvious way. Keys are kept as they were computed,
before rotation. At every step all tokens are numbered anew (:class:`~tests.reference.naive_memory.NaiveMemory`: the
prompt from 0, then what is left without the gaps of what is gone), and all keys are rotated to their numbers. The
runtime instead keeps rotated keys and moves the prompt; nothing of it is used here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tests.reference.naive_memory import NaiveMemory

Frame = NDArray[np.uint8]


class Reference:
    """A checkpoint in transformers' own classes, float32 and eager attention."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

        self.model = LlavaOnevisionForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        self.config = self.model.config

    def pixels(self, frames: list[Frame]) -> Tensor:
        """Frames as the checkpoint's preprocessor prepares them: [1, F, 3, H, W], mean and deviation 0.5."""
        side = self.config.vision_config.image_size
        resized = [np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.BICUBIC)) for f in frames]
        return (torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)[None] / 255.0 - 0.5) / 0.5

    @torch.no_grad()
    def visual_tokens(self, frames: list[Frame]) -> Tensor:
        """[F, M, D]."""
        out = self.model.get_video_features(self.pixels(frames)).pooler_output
        return out[0, :-1].reshape(len(frames), -1, out.shape[-1])

    def turn(self, question: str, frames: int) -> list[int]:
        """Token ids of a user's turn with a video, up to where the answer starts, by the checkpoint's own template."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        vision = self.config.vision_config
        places = frames * (-(-(vision.image_size // vision.patch_size) // 2)) ** 2 + 1  # and the newline behind
        return [token for i in ids for token in ([i] * places if i == self.config.video_token_id else [i])]

    @property
    def end(self) -> int:
        """Token that ends a turn."""
        return self.config.text_config.eos_token_id

    @torch.no_grad()
    def generate(self, ids: list[int], videos: list[list[Frame]], count: int) -> list[int]:
        """Greedy answer without its end token, to a prompt with one video of equal length in each user's turn."""
        prompt = torch.tensor([ids])
        out = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values_videos=torch.cat([self.pixels(video) for video in videos]),
            do_sample=False,
            max_new_tokens=count,
        )
        answer = out[0, len(ids) :].tolist()
        return answer[: answer.index(self.end)] if self.end in answer else answer


class EagerStream:
    """The LLM with a memory of limited size."""

    def __init__(self, reference: Reference, limits: tuple[int, int], sink: list[int], span: int | None = None) -> None:
        """Prefill the prompt before the video.

        Args:
            reference: The model.
            limits: Tokens of the memory, and tokens kept free for a question with its answer.
            sink: Token ids of the prompt before the video.
            span: Positions that a frame covers; by default one per token.
        """
        self.reference = reference
        self.text = reference.model.model.language_model
        self.span = span
        self.memory = NaiveMemory(*limits, self.text.config.max_position_embeddings, len(sink))
        self.cache: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        self._keep(self._run(self.embed(sink), list(range(len(sink))), [])[1], 0)

    def embed(self, ids: list[int]) -> Tensor:
        return self.text.embed_tokens(torch.tensor(ids, dtype=torch.int64))

    def newline(self) -> Tensor:
        return self.reference.model.model.image_newline[None]

    def add_frame(self, tokens: Tensor, offsets: list[int]) -> int:
        """Take the visual tokens [K, D] of a frame; return how many frames were forgotten for it."""
        gone = self.memory.admit("frame", offsets, self.span or len(tokens))
        positions = [token.position for token in self.memory.tokens[-len(tokens) :]]
        self._keep(self._run(tokens, positions, self._past()[: -len(tokens)])[1], self.memory.count)
        return gone.count("frame")

    def remember(self, ids: list[int]) -> None:
        """Take a dialogue: newline and these tokens. It was read before room was made for it."""
        embeds = torch.cat([self.newline(), self.embed(ids)])
        new = self._run(embeds, self._following(len(embeds)), self._past())[1]
        self.memory.admit("dialogue", list(range(len(embeds))), len(embeds))
        self._keep(new, self.memory.count)

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits [V] behind the memory, newline and these tokens; nothing of them is remembered."""
        embeds = torch.cat([self.newline(), self.embed(ids)])
        return self._run(embeds, self._following(len(embeds)), self._past())[0]

    def answer(self, ids: list[int], count: int) -> list[int]:
        """Greedy answer, every token from a pass over the whole question and answer so far."""
        new: list[int] = []
        while len(new) < count:
            token = int(self.logits([*ids, *new]).argmax())
            if token == self.reference.end:
                break
            new.append(token)
        return new

    def _following(self, count: int) -> list[int]:
        return list(range(self.memory.end, self.memory.end + count))

    def _past(self) -> list[tuple[tuple[int, int], int]]:
        """Label and position of all remembered tokens."""
        return [(token.label, token.position) for token in self.memory.tokens]

    def _keep(self, new: list[list[tuple[Tensor, Tensor]]], segment: int) -> None:
        for i, layers in enumerate(new):
            self.cache[segment, i] = layers

    @torch.no_grad()
    def _run(
        self, x: Tensor, positions: list[int], past: list[tuple[tuple[int, int], int]]
    ) -> tuple[NDArray[np.float32], list[list[tuple[Tensor, Tensor]]]]:
        """Return the logits of the last token, and the unrotated key and the value [Hkv, d] of each token and layer."""
        new: list[list[tuple[Tensor, Tensor]]] = [[] for _ in positions]
        everywhere = torch.tensor([position for _, position in past] + positions)
        cos, sin = self.text.rotary_emb(x, everywhere[None])
        seen = torch.ones(len(positions), len(everywhere)).tril(len(past)).bool()
        for number, layer in enumerate(self.text.layers):
            attention = layer.self_attn
            normed = layer.input_layernorm(x)
            query, key, value = (
                getattr(attention, f"{name}_proj")(normed).unflatten(-1, (-1, attention.head_dim)) for name in "qkv"
            )
            for i in range(len(positions)):
                new[i].append((key[i], value[i]))
            keys = torch.stack([self.cache[label][number][0] for label, _ in past] + list(key))
            values = torch.stack([self.cache[label][number][1] for label, _ in past] + list(value))
            query = _rotated(query, cos[0, len(past) :], sin[0, len(past) :])
            keys = _rotated(keys, cos[0], sin[0])
            x = x + attention.o_proj(_attend(query, keys, values, seen))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.reference.model.lm_head(self.text.norm(x[-1])).numpy(), new


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [N, heads, d] to the positions of cos and sin [N, d]."""
    from transformers.models.qwen2.modeling_qwen2 import rotate_half

    return x * cos[:, None] + rotate_half(x) * sin[:, None]


def _attend(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v with one key head for several query heads; [S, heads * d]."""
    groups = query.shape[1] // keys.shape[1]
    heads = []
    for head in range(query.shape[1]):
        scores = query[:, head] @ keys[:, head // groups].T / query.shape[-1] ** 0.5
        weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1)
        heads.append(weights @ values[:, head // groups])
    return torch.cat(heads, dim=-1)
