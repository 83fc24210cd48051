"""What rounding is measured and chosen on: prompts through transformers' model, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stc_calib.schemes import Arithmetic
from stc_export.exporter.checkpoint import Checkpoint
from stc_export.exporter.preprocess import Preprocessing
from stc_export.families.base import Answer, Embedded, Group, LayerSample, Prompt, Ran, Read
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.reference import load_reference
from stc_export.spec.dims import TextDims

_EMBEDDINGS = "language_model.embed_tokens.weight"
Floats = NDArray[np.float32]


def embed_prompts(
    config: LlavaConfig,
    checkpoint: Checkpoint,
    preprocessing: Preprocessing,
    prompts: Sequence[Prompt],
    rounded: Mapping[str, Arithmetic],
) -> Embedded:
    """Return features of all frames, and what the decoder reads of each prompt: text, visual tokens, newline, text.

    See :meth:`stc_export.families.base.FamilyModel.embed_prompts`.
    """
    model = load_reference(checkpoint, LayerSample(tuple(range(config.dims.vision.layers)), (0,), 1)).model
    table = checkpoint.read(_EMBEDDINGS)
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))

    seen: list[torch.Tensor] = []

    def visual_tokens(frame: NDArray[np.uint8]) -> torch.Tensor:
        pixels = (torch.from_numpy(frame).permute(2, 0, 1) / 255.0 - mean) / std
        features = model.vision_tower(pixels[None], output_hidden_states=True).hidden_states[-1]
        seen.append(features[0])
        tokens: torch.Tensor = model.apply_pooling(model.multi_modal_projector(features))[0]
        return tokens

    def embed(ids: Sequence[int]) -> torch.Tensor:
        rows: torch.Tensor = table[torch.tensor(ids, dtype=torch.int64)].float()
        return rows

    def whole(prompt: Prompt) -> Floats:
        frames = [visual_tokens(frame) for frame in prompt.frames]
        newline = model.image_newline[None].float()
        return _array(torch.cat([embed(prompt.before), *frames, newline, embed(prompt.after)]))

    with torch.no_grad(), _rounding(model, rounded):
        read = tuple(whole(prompt) for prompt in prompts)
    return Embedded(tuple(_array(features) for features in seen), read)


@contextmanager
def _rounding(model: Any, rounded: Mapping[str, Arithmetic]) -> Iterator[None]:
    """Round what layers read, token by token."""

    def listen(name: str, arithmetic: Arithmetic) -> Any:
        module = model.get_submodule(name.removesuffix(".weight"))
        return module.register_forward_pre_hook(lambda _, args: (_ROUNDERS[arithmetic](args[0]), *args[1:]))

    handles = [listen(name, arithmetic) for name, arithmetic in rounded.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rounded_to(largest: float, nearest: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Scale each token so that its largest value becomes the largest of a type, round, and scale back."""
    steps = x.abs().amax(-1, keepdim=True) / largest
    steps = torch.where(steps > 0, steps, 1.0)
    return nearest(x / steps) * steps


_ROUNDERS: Mapping[Arithmetic, Callable[[torch.Tensor], torch.Tensor]] = {
    "int8": partial(_rounded_to, 127.0, torch.round),
    "fp8": partial(_rounded_to, 448.0, lambda x: x.to(torch.float8_e4m3fn).float()),
}


def groups(text: TextDims, layer: int) -> tuple[Group, ...]:
    """Return the linear layers of a decoder layer by what they read.

    The output projection reads mixed values. Query heads that share a head of values would need the same scales, so
    there is nothing to fold into unless every head has its own.
    """
    base = f"language_model.layers.{layer}"
    attention, mlp = f"{base}.self_attn", f"{base}.mlp"
    values = (f"{attention}.v_proj.weight", f"{attention}.v_proj.bias")
    return (
        Group(tuple(f"{attention}.{p}_proj.weight" for p in "qkv"), (f"{base}.input_layernorm.weight",)),
        Group((f"{attention}.o_proj.weight",), values if text.heads == text.kv_heads else ()),
        Group(
            (f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"),
            (f"{base}.post_attention_layernorm.weight",),
        ),
        Group((f"{mlp}.down_proj.weight",), (f"{mlp}.up_proj.weight",)),
    )


class Language:
    """The decoder of a checkpoint in float32, one layer in memory at a time; nothing of a prompt is kept.

    Args:
        config: Sizes.
        checkpoint: Its weights; matrices are mapped and converted when they are used.
    """

    def __init__(self, config: LlavaConfig, checkpoint: Checkpoint) -> None:
        self._text = config.dims.text
        self._checkpoint = checkpoint

    def run(self, layer: int, hidden: Sequence[Floats], rows: int = 1) -> Ran:
        """Run one layer; see :meth:`stc_export.families.base.Language.run`."""
        found = groups(self._text, layer)
        model = load_reference(self._checkpoint, LayerSample((0,), (layer,), 1)).model.language_model
        base = f"language_model.layers.{layer}."
        modules = [group.layers[0].removeprefix(base).removesuffix(".weight") for group in found]
        with torch.no_grad(), _listening(model.layers[0], modules) as heard:
            out = tuple(_array(_run_layer(model, torch.from_numpy(x))) for x in hidden)
        reads = (
            Read(group, _array(_some(torch.cat(heard[name]), rows))) for group, name in zip(found, modules, strict=True)
        )
        return Ran(out, tuple(reads))

    def answer(self, hidden: Sequence[Floats]) -> tuple[Answer, ...]:
        """Return what states [S, D] behind the last layer say."""
        model = load_reference(self._checkpoint, LayerSample((0,), (0,), self._text.vocab))
        with torch.no_grad():
            normed = [model.model.language_model.norm(torch.from_numpy(x)) for x in hidden]
            return tuple(Answer(_array(x), _array(model.lm_head(x[-1:])[0])) for x in normed)


def _run_layer(language: Any, x: torch.Tensor) -> torch.Tensor:
    """Run the only layer of a model over a whole prompt [S, D]."""
    rotary = language.rotary_emb(x[None], torch.arange(len(x))[None])
    out: torch.Tensor = language.layers[0](x[None], attention_mask=None, position_embeddings=rotary)
    return out[0]


@contextmanager
def _listening(layer: Any, modules: Sequence[str]) -> Iterator[Mapping[str, list[torch.Tensor]]]:
    """Keep what some modules of a layer read, [S, in] per prompt."""
    heard: dict[str, list[torch.Tensor]] = {name: [] for name in modules}

    def listen(name: str) -> Any:
        return layer.get_submodule(name).register_forward_pre_hook(lambda _, args: heard[name].append(args[0][0]))

    handles = [listen(name) for name in modules]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _some(x: torch.Tensor, rows: int) -> torch.Tensor:
    """Return at most so many rows at even distances."""
    return x[:: -(-len(x) // rows)]


def _array(tensor: torch.Tensor) -> Floats:
    found: Floats = np.ascontiguousarray(tensor.numpy())
    return found
