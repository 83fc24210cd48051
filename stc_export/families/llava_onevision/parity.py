"""Parity cases of a LLaVA-OneVision: each graph on inputs drawn from a real picture.

Full passes are compared with transformers. What transformers does not have, selective passes and pruning methods, is
compared with the traced PyTorch module in float32.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stc_calib.pictures import real_frames
from stc_export.exporter.graphs import GraphDef
from stc_export.exporter.parity import Arrays, ParityCase
from stc_export.families.base import ParityInputs
from stc_export.families.llava_onevision.cache_cases import CACHE_CASES, Step
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.narrow import compute_in_float32
from stc_export.families.llava_onevision.reference import load_reference
from stc_export.families.llava_onevision.split import split_model
from stc_export.pruners import pruner_method
from stc_export.spec.manifest import Role
from stc_runtime.dtypes import carrier, declared, narrowed, widened

Frame = NDArray[np.uint8]

#: Input that says which tokens, or how many -> one of so many tokens is recomputed.
_SHARES: Mapping[str, int] = {"indices": 4, "carrier": 16}
#: Input with a number for each token -> that of a full pass, which has nothing cached yet, and of a selective one.
_CARRIED: Mapping[str, tuple[float, float]] = {"gain": (1.0, 0.75), "drift": (0.0, 0.125)}


def parity_cases(config: LlavaConfig, inputs: ParityInputs) -> Iterator[ParityCase]:
    """Yield cases for every graph: gate twice, vit full and selective, each pruner twice, prefill and decode."""
    checker = _Checker(config, inputs)
    with torch.no_grad():
        for graph in checker.graphs:
            yield from _CASES[graph.role](checker, graph)


class _Checker:
    """Holds the reference model and the frames while the cases of one build are made."""

    def __init__(self, config: LlavaConfig, inputs: ParityInputs) -> None:
        self.config, self.inputs = config, inputs
        self.model = load_reference(inputs.checkpoint, inputs.sample)
        self.frames = real_frames(config.dims.vision.image_size)
        self.graphs = split_model(
            config,
            dataclasses.replace(inputs.form, dtype="float32"),
            (inputs.preprocessing.mean, inputs.preprocessing.std),
        ).graphs
        self.patches = [self._patches(frame) for frame in self.frames]
        self.features = self._features()
        self.attention = self._attention() if inputs.form.attention else np.zeros(0, np.float32)
        self.keys = self._keys() if inputs.form.attention else np.zeros(0, np.float32)

    def _pixels(self, frame: Frame) -> Any:
        mean, std = (
            torch.tensor(v)[:, None, None] for v in (self.inputs.preprocessing.mean, self.inputs.preprocessing.std)
        )
        return ((torch.from_numpy(frame).permute(2, 0, 1) / 255.0 - mean) / std)[None]

    def _patches(self, frame: Frame) -> NDArray[np.float32]:
        embeddings = self.model.model.vision_tower.embeddings
        with torch.no_grad():
            return _array((embeddings(self._pixels(frame)) - embeddings.position_embedding.weight)[0])

    def _features(self) -> NDArray[np.float32]:
        with torch.no_grad():
            out = self.model.model.vision_tower(self._pixels(self.frames[0]), output_hidden_states=True)
        return _array(out.hidden_states[-1][0])

    def _attention(self) -> NDArray[np.float32]:
        """What each token receives in the last layer, by transformers; only its plain form of attention tells."""
        tower = self.model.model.vision_tower
        tower.set_attn_implementation("eager")
        with torch.no_grad():
            out = tower(self._pixels(self.frames[0]), output_attentions=True)
        return _array(out.attentions[-1][0].mean((0, 1)))

    def _keys(self) -> NDArray[np.float32]:
        """Keys [heads, T, head_dim] of the last layer, by transformers."""
        layer, vision = self.model.model.vision_tower.encoder.layers[-1], self.config.dims.vision
        with torch.no_grad():
            out = self.model.model.vision_tower(self._pixels(self.frames[0]), output_hidden_states=True)
            keys = layer.self_attn.k_proj(layer.layer_norm1(out.hidden_states[-2][0]))
        return _array(keys.unflatten(-1, (vision.heads, vision.head_dim)).transpose(0, 1))

    def _typed(self, array: Any) -> NDArray[Any]:
        return np.ascontiguousarray(narrowed(array, carrier(self.inputs.form.dtype)))

    def _module(self, graph: GraphDef) -> Any:
        """Return the traced module with the weights that the bundle stores; it computes in float32."""
        with torch.device("meta"):
            module = graph.module().eval()
        places = {n: f for f, names in self.inputs.weight_names.items() for n in names if f in graph.weight_files}
        weights = {n: _tensor(self.inputs.weight(places[n], n)) for n, _ in module.named_parameters()}
        shaped = {n: weights[n].reshape(p.shape) for n, p in module.named_parameters()}
        module.load_state_dict(shaped, strict=True, assign=True)
        compute_in_float32(module)
        return module

    def _expected(self, graph: GraphDef, feeds: Arrays) -> dict[str, NDArray[Any]]:
        flat = [torch.from_numpy(np.asarray(widened(feeds[s.name]), dtype=s.dtype)) for s in graph.inputs]
        result = self._module(graph)(*graph.nest(flat))
        return {spec.name: _array(value) for spec, value in zip(graph.outputs, result, strict=True)}

    def gate(self, graph: GraphDef) -> Iterator[ParityCase]:
        """First frame against transformers' embeddings, second frame against the module."""
        empty = np.zeros_like(self.patches[0])
        feeds = {"frame": self.frames[0], "reference": self._typed(empty)}
        yield ParityCase(graph.file, "first frame", "transformers", feeds, {"patch_embeddings": self.patches[0]})
        feeds = {"frame": self.frames[1], "reference": self._typed(self.patches[0])}
        expected = self._expected(graph, feeds)
        yield ParityCase(graph.file, "second frame", "module", feeds, expected)

    def vit(self, graph: GraphDef) -> Iterator[ParityCase]:
        """Full pass against transformers, a share of the tokens of the second frame against the module.

        Scores closer than the rounding error have no order, and one token that changes places changes all numbers. A
        ninth of the second frame has moved. So a graph that ranks gets a share below that: the last token chosen and
        the first left out are then both of what moved, and far from each other, not of the rest that is all alike.
        """
        name = graph.inputs[1].name
        cached = [s for s in graph.inputs if s.name.endswith("_in")]
        state = {s.name: np.zeros([int(d) for d in s.shape], carrier(self.inputs.form.dtype)) for s in cached}
        tokens = np.arange(self.config.dims.vision.tokens, dtype=np.int64)
        shares = {n: np.full(len(tokens), of_all, np.float32) for n, (of_all, _) in self._carried(graph).items()}
        feeds = {"patch_embeddings": self._typed(self.patches[0]), name: tokens, **shares, **state}
        known, given = {"features": self.features, "attention": self.attention}, {s.name for s in graph.outputs}
        yield ParityCase(graph.file, "full", "transformers", feeds, {n: v for n, v in known.items() if n in given})
        cache = self.inputs.run(graph.file, feeds)
        state = {n.removesuffix("_out") + "_in": cache[n] for n in cache if n.endswith("_out")}
        share = _SHARES[name]
        chosen = self._least_similar(len(tokens) // share or 1)
        shares = {n: np.full(len(chosen), of_few, np.float32) for n, (_, of_few) in self._carried(graph).items()}
        feeds = {"patch_embeddings": self._typed(self.patches[1]), name: chosen, **shares, **state}
        yield ParityCase(graph.file, f"selective {100 // share} %", "module", feeds, self._expected(graph, feeds))

    @staticmethod
    def _carried(graph: GraphDef) -> dict[str, tuple[float, float]]:
        """What is fed beside the tokens, in a full pass and in a selective one."""
        return {s.name: _CARRIED[s.name] for s in graph.inputs if s.name in _CARRIED}

    def _least_similar(self, count: int) -> NDArray[np.int64]:
        a, b = self.patches
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1) + 1e-12)
        return np.sort(np.argsort(cosine, kind="stable")[:count]).astype(np.int64)

    def _visual_tokens(self) -> NDArray[np.float32]:
        projected = self.model.model.multi_modal_projector(torch.from_numpy(self.features)[None])
        return _array(self.model.model.apply_pooling(projected)[0])

    def pruner(self, graph: GraphDef) -> Iterator[ParityCase]:
        """All visual tokens against transformers; a third of them, with a history, against the module."""
        tokens = self._visual_tokens()
        feeds: dict[str, NDArray[Any]] = {"features": self._typed(self.features)}
        specs = {s.name: s for s in graph.inputs}
        if "history" in specs:
            width = int(specs["history"].shape[1])
            feeds["history"] = np.zeros((1, width), np.float32)
            feeds["history_weights"] = np.zeros(1, np.float32)
        if "alpha" in specs:
            feeds["alpha"] = np.array([0.5], np.float32)
        if "noise" in specs:
            feeds["noise"] = np.random.default_rng(0).random(len(tokens), np.float32)
        if "attention" in specs:
            feeds["attention"] = self.attention
        if "keys" in specs:
            feeds["keys"] = self._typed(self.keys)
        if "carrier" in specs:
            feeds["carrier"] = np.zeros(len(tokens), np.int64)
        yield ParityCase(graph.file, "all tokens", "transformers", feeds, {"visual_tokens": tokens})
        if "carrier" not in specs:
            return
        feeds = {**feeds, "carrier": np.zeros(max(1, len(tokens) // 3), np.int64)}
        if "history" in specs:
            # Of another frame: every token has moved by one place, since a frame that is like the one before it leaves
            # what compares them with nothing to rank but rounding errors.
            earlier = {**feeds, "features": np.roll(feeds["features"], 1, axis=0)}
            feeds["history"] = self.inputs.run(graph.file, earlier)["history_entry"][None]
            feeds["history_weights"] = np.ones(1, np.float32)
        expected = self._expected(graph, feeds)
        # Rows depend on which tokens were kept; the indices are compared as a set, the rows by the graph's own indices.
        kept = self.inputs.run(graph.file, feeds)["kept_indices"]
        # A method that merges by keys and ranks by attention has both of them given: the module keeps the same.
        rows = expected["visual_tokens"] if "keys" in specs else tokens[kept]
        yield ParityCase(
            graph.file,
            "a third of the tokens",
            "module",
            feeds,
            {**expected, "visual_tokens": rows},
            frozenset({"kept_indices"}),
            frozenset(pruner_method(graph.variant).ranked),
        )

    def llm(self, graph: GraphDef) -> Iterator[ParityCase]:
        """Prefill of real visual tokens with an empty past, then one decoding step, against transformers."""
        embeds = self._visual_tokens()[: min(48, self.inputs.form.slots)]
        steps = len(embeds) - 1
        out = self.model.model.language_model(inputs_embeds=torch.from_numpy(embeds)[None], use_cache=True)
        cache = [(_array(layer.keys), _array(layer.values)) for layer in out.past_key_values.layers]
        feeds: dict[str, NDArray[Any]] = {}
        for name, first, last in (("prefill", 0, steps), ("decode", steps, steps + 1)):
            logits = _array(self.model.lm_head(out.last_hidden_state[:, last - 1]))
            step = Step(self.inputs.form, cache, first, last, partial(self.inputs.run, graph.file, feeds))
            past, kept = CACHE_CASES[self.inputs.form.flavour](step)
            feeds = {
                "inputs_embeds": self._typed(embeds[None, first:last]),
                "position_ids": np.arange(first, last, dtype=np.int64)[None],
                **past,
            }
            yield ParityCase(graph.file, name, "transformers", feeds, {"logits": logits, **kept})


#: Role -> cases of a graph of this role.
_CASES: Mapping[Role, Callable[[_Checker, GraphDef], Iterator[ParityCase]]] = {
    "cacher_gate": _Checker.gate,
    "vit": _Checker.vit,
    "pruner": _Checker.pruner,
    "llm": _Checker.llm,
}


def _tensor(stored: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor over the same memory; numpy carries bfloat16 as uint16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors, and nothing writes to this one
        tensor = torch.from_numpy(stored)
    return tensor.view(getattr(torch, declared(stored.dtype)))


def _array(tensor: Any) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().numpy())
