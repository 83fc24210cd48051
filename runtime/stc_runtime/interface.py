"""Check that the parts of a manifest fit together: what the runtime relies on when it feeds graphs and reads tables.

A manifest that was edited, or written by something else, is then refused when the bundle is opened, with one sentence;
without this check it would fail somewhere inside a stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple

from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import SELECTION_INPUTS, DType, GraphEntry, Manifest, Piece, TensorSpec

_DTYPES: dict[str, DType] = {"fp32": "float32", "fp16": "float16"}

Ports = tuple[Iterable[TensorSpec], Iterable[TensorSpec]]


def check_interface(manifest: Manifest, source: str) -> None:
    """Check sizes, graph interfaces, tables and prompt against each other; ``source`` names the bundle in errors.

    Raises:
        BundleError: Two parts contradict each other.
    """
    problem = _sizes_problem(manifest) or _graph_problem(manifest) or _table_problem(manifest)
    if problem:
        raise BundleError(f'The manifest of "{source}" contradicts itself: {problem}.', "Build the bundle again.")


def _sizes_problem(manifest: Manifest) -> str | None:
    vision, text = manifest.dims.vision, manifest.dims.text
    if min(astuple(vision)) < 1 or min(astuple(text)) <= 0:
        return "a size in dims is not positive"
    if vision.width % vision.heads or text.heads % text.kv_heads or text.head_dim % 2:
        return "heads do not divide what they share"
    if vision.patch_size > vision.image_size or manifest.preprocess.size != vision.image_size:
        return f"frames are resized to {manifest.preprocess.size}, the model sees {vision.image_size}"
    prompt = manifest.prompt
    pieces = (*prompt.before_video, *prompt.after_video, *prompt.next_turn)
    if not all(_one_of_three(piece) for piece in pieces) or sum(piece.question for piece in prompt.after_video) != 1:
        return "a piece of the prompt is not exactly one of text, token and question"
    if not all(0 <= piece.token < text.vocab for piece in pieces if piece.token is not None):
        return f"the prompt has a token outside the vocabulary of {text.vocab}"
    return None


def _one_of_three(piece: Piece) -> bool:
    return (piece.text is not None) + (piece.token is not None) + piece.question == 1


def _table_problem(manifest: Manifest) -> str | None:
    text = manifest.dims.text
    wanted: dict[str, set[tuple[int, ...]]] = {
        "embed": {(text.vocab, text.width)},
        "newline": {(text.width,), (1, text.width)},
    }
    for name, shapes in wanted.items():
        table = manifest.table(name)
        if table.shape not in shapes or table.dtype != _DTYPES[manifest.precision]:
            return f'the table "{name}" is {table.dtype} {list(table.shape)}'
    return None


def _graph_problem(manifest: Manifest) -> str | None:
    for graph in manifest.graphs:
        expected = {"cacher_gate": _gate, "vit": _vit, "pruner": _pruner, "llm": _llm}[graph.role](manifest, graph)
        for kind, given, ports in zip(("input", "output"), (graph.inputs, graph.outputs), expected, strict=True):
            found, wanted = {spec.name: spec for spec in given}, {spec.name: spec for spec in ports}
            for name in sorted(found.keys() | wanted.keys()):
                has, needs = found.get(name), wanted.get(name)
                if has != needs:
                    return f'"{graph.file}" declares the {kind} {name} as {_shown(has)}, expected {_shown(needs)}'
    return None


def _shown(spec: TensorSpec | None) -> str:
    return f"{spec.dtype} {list(spec.shape)}" if spec else "nothing"


def _gate(manifest: Manifest, _graph: GraphEntry) -> Ports:
    vision, dtype = manifest.dims.vision, _DTYPES[manifest.precision]
    patches = (vision.tokens, vision.width)
    inputs = (
        TensorSpec("frame", "uint8", (vision.image_size, vision.image_size, 3)),
        TensorSpec("reference", dtype, patches),
    )
    outputs = (
        TensorSpec("patch_embeddings", dtype, patches),
        TensorSpec("similarity", "float32", (vision.tokens,)),
        TensorSpec("statistics", "float32", (3,)),
    )
    return inputs, outputs


def _vit(manifest: Manifest, graph: GraphEntry) -> Ports:
    """The state may be any tensors of fixed size, as long as what goes in comes out."""
    vision, dtype = manifest.dims.vision, _DTYPES[manifest.precision]
    patches = (vision.tokens, vision.width)
    state = [
        spec
        for spec in graph.inputs
        if spec.name.endswith("_in") and all(isinstance(size, int) and size > 0 for size in spec.shape)
    ]
    selection = SELECTION_INPUTS.get(graph.variant, "indices")
    inputs = (TensorSpec("patch_embeddings", dtype, patches), TensorSpec(selection, "int64", ("R",)), *state)
    renamed = (TensorSpec(f"{spec.name.removesuffix('_in')}_out", spec.dtype, spec.shape) for spec in state)
    return inputs, (TensorSpec("features", dtype, patches), *renamed)


def _pruner(manifest: Manifest, graph: GraphEntry) -> Ports:
    """History, alpha and carrier are there if the method needs them; without a carrier all M tokens are kept."""
    vision, dtype = manifest.dims.vision, _DTYPES[manifest.precision]
    entry = manifest.pruner(graph.variant)
    has = {spec.name for spec in graph.inputs}
    kept: int | str = "K" if "carrier" in has else vision.visual_tokens
    history = [] if entry.history == "none" else ["history", "history_weights"]
    known = {
        "history": TensorSpec("history", "float32", ("W", entry.history_width)),
        "history_weights": TensorSpec("history_weights", "float32", ("W",)),
        "alpha": TensorSpec("alpha", "float32", (1,)),
        "carrier": TensorSpec("carrier", "int64", ("K",)),
    }
    optional = [known[name] for name in (*history, *sorted(has & {"alpha", "carrier"}))]
    outputs = [
        TensorSpec("visual_tokens", dtype, (kept, manifest.dims.text.width)),
        TensorSpec("kept_indices", "int64", (kept,)),
        *([TensorSpec("history_entry", "float32", (entry.history_width,))] if history else []),
    ]
    return (TensorSpec("features", dtype, (vision.tokens, vision.width)), *optional), outputs


def _llm(manifest: Manifest, _graph: GraphEntry) -> Ports:
    text, dtype = manifest.dims.text, _DTYPES[manifest.precision]

    def cache(suffix: str, letter: str) -> list[TensorSpec]:
        shape = (1, text.kv_heads, letter, text.head_dim)
        names = (f"{name}_{layer}_{suffix}" for name in ("key", "value") for layer in range(text.layers))
        return [TensorSpec(name, dtype, shape) for name in names]

    inputs = (
        TensorSpec("inputs_embeds", dtype, (1, "S", text.width)),
        TensorSpec("position_ids", "int64", (1, "S")),
        TensorSpec("past_bias", dtype, (1, "P")),
        *cache("in", "P"),
    )
    return inputs, (TensorSpec("logits", "float32", (1, text.vocab)), *cache("out", "S"))
