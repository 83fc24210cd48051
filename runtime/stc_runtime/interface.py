"""Check that the parts of a manifest fit together: what the runtime relies on when it feeds graphs and reads tables.

A manifest that was edited, or written by something else, is then refused when the bundle is opened, with one sentence;
without this check it would fail somewhere inside a stream.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple
from typing import get_args

from stc_export.spec.errors import BundleError, PolicyError, ResourceError
from stc_export.spec.interface import (
    Interface,
    gate_interface,
    kv_format,
    llm_interface,
    pruner_interface,
    vit_interface,
    vit_selection,
)
from stc_export.spec.manifest import (
    PRECISION_DTYPES,
    DType,
    GraphEntry,
    Manifest,
    Piece,
    QuantisedPrecision,
    TensorSpec,
    table_scale,
)
from stc_export.spec.memory import kv_slots
from stc_export.spec.policy import SELECTIONS

#: Characters of a name that an error shows.
_SHOWN = 80


def check_interface(manifest: Manifest, source: str) -> None:
    """Check sizes, graph interfaces, tables and prompt against each other; ``source`` names the bundle in errors.

    Raises:
        BundleError: Two parts contradict each other.
    """
    checks = (_names_problem, _sizes_problem, _history_problem, _graph_problem, _attention_problem, _table_problem)
    problem = next(filter(None, (check(manifest) for check in checks)), None)
    if problem:
        raise BundleError(f'The manifest of "{source}" contradicts itself: {problem}.', "Build the bundle again.")


def _names_problem(manifest: Manifest) -> str | None:
    """What is looked up by its name is there once."""
    named: dict[str, list[str]] = {
        "the graph": [f"{graph.role}/{graph.variant}" for graph in manifest.graphs],
        "the table": [table.name for table in manifest.tables],
        "the pruning method": [pruner.method for pruner in manifest.pruners],
    }
    for graph in manifest.graphs:
        named[f'in "{graph.file}" the input'] = [spec.name for spec in graph.inputs]
        named[f'in "{graph.file}" the output'] = [spec.name for spec in graph.outputs]
    for kind, names in named.items():
        for name, count in Counter(names).items():
            if count > 1:
                return f'it has {kind} "{name[:_SHOWN]}" more than once'
    return None


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


def _history_problem(manifest: Manifest) -> str | None:
    most = manifest.dims.vision.visual_tokens * manifest.dims.text.width
    for pruner in manifest.pruners:
        if not 0 <= pruner.history_width <= most:
            return f'"{pruner.method[:_SHOWN]}" remembers entries of {pruner.history_width} numbers'
    return None


def _one_of_three(piece: Piece) -> bool:
    return (piece.text is not None) + (piece.token is not None) + piece.question == 1


def _table_problem(manifest: Manifest) -> str | None:
    text, floats = manifest.dims.text, PRECISION_DTYPES[manifest.precision]
    rounded = manifest.table("embed").dtype == "int8"
    scale: dict[str, tuple[DType, set[tuple[int, ...]]]] = {table_scale("embed"): (floats, {(text.vocab, 1)})}
    wanted: dict[str, tuple[DType, set[tuple[int, ...]]]] = {
        "embed": ("int8" if rounded else floats, {(text.vocab, text.width)}),
        "newline": (floats, {(text.width,), (1, text.width)}),
        **(scale if rounded else {}),
    }
    for name, (dtype, shapes) in wanted.items():
        table = manifest.table(name)
        if table.shape not in shapes or table.dtype != dtype:
            return f'the table "{name}" is {table.dtype} {list(table.shape)}'
    return None


def _graph_problem(manifest: Manifest) -> str | None:
    for graph in manifest.graphs:
        if graph.precision not in (manifest.precision, *get_args(QuantisedPrecision)):
            return f'"{graph.file}" computes in {graph.precision}, what graphs hand each other is {manifest.precision}'
        expected = _expected(manifest, graph)
        for kind, given, ports in (
            ("input", graph.inputs, expected.inputs),
            ("output", graph.outputs, expected.outputs),
        ):
            found, wanted = {spec.name: spec for spec in given}, {spec.name: spec for spec in ports}
            for name in sorted(found.keys() | wanted.keys()):
                has, needs = found.get(name), wanted.get(name)
                if has != needs:
                    return f'"{graph.file}" declares the {kind} {name} as {_shown(has)}, expected {_shown(needs)}'
    return None


def _attention_problem(manifest: Manifest) -> str | None:
    """A method that ranks by attention works with each selection."""
    takes = [graph.file for graph in manifest.graphs if any(spec.name == "attention" for spec in graph.inputs)]
    lacking = [graph.file for graph in manifest.graphs if graph.role == "vit" and not _gives_attention(graph)]
    return f'"{takes[0]}" takes attention, which "{lacking[0]}" does not give' if takes and lacking else None


def _gives_attention(graph: GraphEntry) -> bool:
    return any(spec.name == "attention" for spec in graph.outputs)


def _expected(manifest: Manifest, graph: GraphEntry) -> Interface:
    dims, dtype = manifest.dims, PRECISION_DTYPES[manifest.precision]
    if graph.role == "cacher_gate":
        return gate_interface(dims.vision, dtype)
    if graph.role == "llm":
        return llm_interface(dims.text, dtype, manifest.flavour, _slots(manifest), kv_format(graph))
    if graph.role == "vit":
        selection = vit_selection(graph.variant) or SELECTIONS[0]
        return vit_interface(dims.vision, dtype, selection, attention=_gives_attention(graph))
    entry = manifest.pruner(graph.variant)
    takes = {spec.name for spec in graph.inputs}
    history = () if entry.history == "none" else ("history", "history_weights")
    inputs = (*history, *(name for name in ("alpha", "noise", "attention", "keys", "carrier") if name in takes))
    return pruner_interface(dims, dtype, entry.history_width if history else 0, inputs)


def _slots(manifest: Manifest) -> int:
    """Return the slots of the bundle's policy; 0, which no graph has, if it does not fit the model."""
    try:
        return kv_slots(manifest.policy.memory, manifest.dims.text.context)
    except (PolicyError, ResourceError):  # told where a session begins, which may have another policy
        return 0


def _shown(spec: TensorSpec | None) -> str:
    return f"{spec.dtype} {list(spec.shape)}" if spec else "nothing"
