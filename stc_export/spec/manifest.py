"""What a bundle says about itself: ``manifest.json``, schema ``stc.bundle/1``.

The manifest is canonical (same content, same bytes) and strict when read. It never holds code, and every path in it is
a plain relative path below the bundle. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from stc_export.spec import codec
from stc_export.spec.dims import ModelDims
from stc_export.spec.errors import BundleError
from stc_export.spec.files import read_text
from stc_export.spec.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "stc.bundle/1"
MANIFEST_NAME = "manifest.json"
#: A manifest of a 100-layer model is about 200 kB; anything above this is not ours.
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
#: Characters of a path that an error shows.
_SHOWN = 200
#: Longer names of files do not exist.
_MAX_PATH = 255
#: No width, side or count of a model is larger.
_MAX_SIZE = 1 << 24
#: No model has more layers. Each has tensors of its own in the interface of a graph.
_MAX_LAYERS = 1 << 10
#: What runs a graph goes by the end of its name, too.
_GRAPH_END = ".onnx"

Role = Literal["cacher_gate", "vit", "pruner", "llm"]
DType = Literal["float32", "float16", "bfloat16", "int64", "uint8", "int8"]
Precision = Literal["fp32", "fp16", "bf16"]
#: Precisions of the weights of one graph, in a bundle of any of the above; ``-128``: 128 weights share a scale, not 32;
#: ``fp8``: E4M3 of ONNX, numbers of 8 bits with an exponent.
QuantisedPrecision = Literal["int4", "int4-128", "int8", "fp8"]
Flavour = Literal["base", "modern"]
#: How keys and values of the LLM are kept: in the type that its graph computes in, or as codes of 8 bits with a scale
#: for each token and head.
KVFormat = Literal["floats", "int8"]
HistoryKind = Literal["none", "window", "mean", "last"]

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")

#: Selections and the name of the ``vit`` input [R] that carries them: token indices, or only a length.
SELECTION_INPUTS: dict[str, str] = {"gate": "indices", "per_layer": "carrier", "shared": "carrier"}

_METRIC_FLAGS = {"l1": "--metrics l1", "l2": "--metrics l2", "dot": "--metrics dot"}
#: What ``build`` writes only when it is asked to: role, last part of the variant, and the flag.
BUILD_FLAGS: dict[Role, dict[str, str]] = {
    "cacher_gate": _METRIC_FLAGS,
    "vit": _METRIC_FLAGS,
    "pruner": {"visionzip": "--attention"},
    "llm": {},
}

#: Type of activations and large weights in a precision.
PRECISION_DTYPES: dict[Precision, DType] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

#: Bytes of one element.
DTYPE_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "uint8": 1, "int8": 1}


def table_scale(table: str) -> str:
    """Return the name of the table that has the scale of each row of a table in int8."""
    return f"{table}_scale"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a dimension is a number or one of the letters of :mod:`stc_export.spec.dims`."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape of a tensor without dynamic dimensions.

        Raises:
            BundleError: A dimension is a letter.
        """
        if any(isinstance(dimension, str) for dimension in self.shape):
            raise BundleError(
                f'"{self.name}" has the shape {list(self.shape)}, expected numbers.', "Build the bundle again."
            )
        return tuple(int(dimension) for dimension in self.shape)


@dataclass(frozen=True)
class GraphEntry:
    """One ONNX file.

    Attributes:
        role: What it does.
        variant: Which form of the role: a selection (``vit``), a pruning method (``pruner``), else ``default``; and
            behind it the metric, where the graph ranks by another one than the cosine: ``l2``, ``per_layer.l2``.
        file: Path of the ONNX file.
        weights: Paths of the weight files that it refers to.
        inputs: Declared inputs in order.
        outputs: Declared outputs in order.
        precision: That of the bundle, or in how many bits it holds the weights of its linear layers.
    """

    role: Role
    variant: str
    file: str
    weights: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision | QuantisedPrecision


@dataclass(frozen=True)
class TableEntry:
    """A tensor that the host reads itself: ``embed`` [vocab, D] and ``newline`` [D]."""

    name: str
    file: str
    dtype: DType
    shape: tuple[int, ...]
    offset_bytes: int


@dataclass(frozen=True)
class PrunerEntry:
    """What the host keeps for a pruning method.

    Attributes:
        method: Name of the method and variant of its graph.
        history: ``none``; ``window``: the last W entries; ``mean``: the running mean of all entries; ``last``: that
            of the previous frame.
        history_width: Elements of one entry (0 without history).
    """

    method: str
    history: HistoryKind
    history_width: int


@dataclass(frozen=True)
class Piece:
    """A part of the prompt: plain text, the id of a special token, or the place of the question.

    Exactly one of the three is set. Text is tokenised as plain text, so that ``<|im_end|>`` in a question is only text.
    """

    text: str | None = None
    token: int | None = None
    question: bool = False


@dataclass(frozen=True)
class PromptSpec:
    """The checkpoint's chat template, taken apart at build time.

    Attributes:
        before_video: Kept at the start of the stream's memory (the sink).
        after_video: Appended when a question is asked; contains the question once. The newline embedding that
            transformers puts after a video comes before it.
        next_turn: Appended after an answer that is to be remembered, before the next frame.
        stop_tokens: Token ids that end an answer.
    """

    before_video: tuple[Piece, ...]
    after_video: tuple[Piece, ...]
    next_turn: tuple[Piece, ...]
    stop_tokens: tuple[int, ...]


@dataclass(frozen=True)
class PreprocessSpec:
    """Host preprocessing: bicubic resize with antialiasing to a square; the graph normalises.

    Attributes:
        size: Side of the square in pixels.
        resample: Filter, named as in Pillow.
    """

    size: int
    resample: Literal["bicubic", "bilinear", "nearest", "lanczos"]


@dataclass(frozen=True)
class ModelInfo:
    """Where the weights come from.

    Attributes:
        name: Directory name, hub id or ``demo``.
        family: Family that split it.
        architecture: Class name in the checkpoint's config.
        trained: False when the weights are known to be random.
        parameters: Number of parameters.
    """

    name: str
    family: str
    architecture: str
    trained: bool
    parameters: int


@dataclass(frozen=True)
class OutputParity:
    """How far one output of a graph is from its reference.

    Attributes:
        output: Name of the output.
        max_abs: Largest absolute difference.
        max_rel: Largest difference relative to the largest absolute value of the reference.
        cosine: Cosine of the two tensors taken as vectors.
        tolerance: Largest ``max_rel`` that passes.
        passed: Whether it passes.
    """

    output: str
    max_abs: float
    max_rel: float
    cosine: float
    tolerance: float
    passed: bool


@dataclass(frozen=True)
class GraphParity:
    """Parity of one case of one graph.

    Attributes:
        graph: Path of the graph.
        case: What was fed, e.g. ``selective 25 %``.
        reference: What it was compared with: ``transformers``, ``module`` (the traced PyTorch module) or ``goldens``
            (what ONNX Runtime gave when the bundle was built).
        layers: Which layers ran, e.g. ``all 26`` or ``sample 0, 13, 25``; behind it in which form, if it was not the
            graph itself that ran, e.g. ``all 26, float32 rounded to bfloat16``.
        outputs: One row per output.
    """

    graph: str
    case: str
    reference: Literal["transformers", "module", "goldens"]
    layers: str
    outputs: tuple[OutputParity, ...]

    @property
    def passed(self) -> bool:
        """Whether all outputs pass."""
        return all(row.passed for row in self.outputs)


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle with its size and SHA-256."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class SessionMemory:
    """What one session with the bundle's own policy needs, as computed when it was built; bytes.

    Attributes:
        weights_bytes: Weights of the graphs that it opens, as stored; sessions of one opened bundle share them.
        feature_cache_bytes: Keys, values and features of the ViT's reference frame.
        kv_bytes: Keys and values of the LLM.
        activations_bytes: The widest moment.
        resident_bytes: Resident memory of a process with one session, where graphs run on the CPU; else ``None``.
    """

    weights_bytes: int
    feature_cache_bytes: int
    kv_bytes: int
    activations_bytes: int
    resident_bytes: int | None


@dataclass(frozen=True)
class Manifest:
    """Everything that a runtime needs to know before it opens a graph.

    ``precision`` is that of state, of tables and of what graphs hand each other.
    """

    schema: str
    writer: str
    target: str
    flavour: Flavour
    precision: Precision
    model: ModelInfo
    dims: ModelDims
    preprocess: PreprocessSpec
    prompt: PromptSpec
    tokenizer: str
    graphs: tuple[GraphEntry, ...]
    tables: tuple[TableEntry, ...]
    pruners: tuple[PrunerEntry, ...]
    policy: Policy
    session: SessionMemory
    parity: tuple[GraphParity, ...]
    files: tuple[FileEntry, ...]

    def graph(self, role: Role, variant: str = "default") -> GraphEntry:
        """Return the graph of a role and variant.

        Raises:
            BundleError: The bundle has no such graph.
        """
        for entry in self.graphs:
            if entry.role == role and entry.variant == variant:
                return entry
        variants = ", ".join(e.variant for e in self.graphs if e.role == role) or "none"
        raise BundleError(
            f'The bundle has no {role} graph "{variant}"; it has: {variants}.',
            f"Choose one of these in the policy, or {_how_to_build(role, variant)}.",
        )

    def table(self, name: str) -> TableEntry:
        """Return a host table by name.

        Raises:
            BundleError: The bundle has no such table.
        """
        for entry in self.tables:
            if entry.name == name:
                return entry
        raise BundleError(f'The bundle has no table "{name}".', "Build it again.")

    def pruner(self, method: str) -> PrunerEntry:
        """Return what the host must keep for a pruning method.

        Raises:
            BundleError: The bundle has no such method.
        """
        for entry in self.pruners:
            if entry.method == method:
                return entry
        known = ", ".join(e.method for e in self.pruners)
        raise BundleError(
            f'The bundle has no pruning method "{method}"; it has: {known}.', "Choose one of these in the policy."
        )


def build_flag(role: Role, variant: str) -> str | None:
    """Return the flag with which ``build`` writes a graph; ``None`` if it needs none, or there is no such graph."""
    return BUILD_FLAGS[role].get(variant.rpartition(".")[2])


def _how_to_build(role: Role, variant: str) -> str:
    flag = build_flag(role, variant)
    return f"build the bundle again with {flag}" if flag else "rebuild"


@dataclass(frozen=True)
class _Written(Manifest):
    """A manifest as it lies in a bundle.

    Attributes:
        sha256: Of the canonical text without this key, so that damage shows. Bundles that were built by older versions
            have none.
    """

    sha256: str | None = None


def manifest_to_text(manifest: Manifest) -> str:
    """Return the canonical text of ``manifest.json``."""
    return codec.to_json(_Written(**vars(manifest), sha256=_digest(manifest)))


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(codec.to_json(manifest).encode()).hexdigest()


def read_manifest(bundle: Path) -> Manifest:
    """Read the manifest of a bundle.

    Raises:
        BundleError: There is no bundle, or its manifest cannot be used.
    """
    path, source = bundle / MANIFEST_NAME, str(bundle)
    try:
        _check_place(bundle, path)
        text = read_text(path, MAX_MANIFEST_BYTES)
    except BundleError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BundleError(
            f'The manifest of "{source[:_SHOWN]}" cannot be read ({reason}).', "Build the bundle again."
        ) from error
    return manifest_from_text(text, source)


def _check_place(bundle: Path, path: Path) -> None:
    give = "Build one with stc-export build, or give the directory that it wrote."
    if not bundle.exists():
        raise BundleError(f'There is no bundle "{str(bundle)[:_SHOWN]}".', give)
    if not bundle.is_dir():
        raise BundleError(f'"{bundle}" is a file; a bundle is a directory.', give)
    if path.is_symlink():
        raise BundleError(f'The manifest of "{bundle}" is a link.', "Copy the bundle with links resolved.")
    if not path.exists():
        raise BundleError(f'"{bundle}" is not a bundle: it has no {MANIFEST_NAME}.', give)


def manifest_from_text(text: str, source: str) -> Manifest:
    """Read and check a manifest; ``source`` names the bundle in errors.

    Raises:
        BundleError: Not JSON, a newer schema, an unknown or missing key, a bad value, a path that leaves the bundle, or
            not what was written.
    """
    _check_schema(text, source)
    try:
        written = codec.from_json(_Written, text)
    except ValueError as error:  # DecodeError, PolicyError
        reason = str(error).removesuffix(".")
        raise BundleError(f'The manifest of "{source}" cannot be used: {reason}.', "Build the bundle again.") from error
    manifest = Manifest(**{field.name: getattr(written, field.name) for field in fields(Manifest)})
    _check_sizes(manifest, source)
    _check_prompt(manifest.prompt, source)
    _check_paths(manifest, source)
    if written.sha256 not in (None, _digest(manifest)):
        raise BundleError(f'The manifest of "{source}" was altered.', "Copy or build the bundle again.")
    return manifest


def _check_schema(text: str, source: str) -> None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f'The manifest of "{source}" is not JSON ({error}).', "Build the bundle again.") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema == SCHEMA:
        return
    if isinstance(schema, str) and schema.startswith("stc.bundle/"):
        raise BundleError(
            f'"{source}" has schema "{schema[:40]}", this version reads "{SCHEMA}".',
            "Update stc-export, or build the bundle again.",
        )
    raise BundleError(
        f'"{source}" is not a bundle: its manifest has no schema "{SCHEMA}".', "Build one with stc-export build."
    )


def _check_sizes(manifest: Manifest, source: str) -> None:
    vision, text = manifest.dims.vision, manifest.dims.text
    counts = {
        **{f"dims.vision.{name}": value for name, value in vars(vision).items()},
        **{f"dims.text.{name}": value for name, value in vars(text).items() if name != "rope_theta"},
        "preprocess.size": manifest.preprocess.size,
        "dims.text.heads x dims.text.head_dim": text.heads * text.head_dim,
    }
    for name, value in counts.items():
        if not 1 <= value <= (_MAX_LAYERS if name.endswith(".layers") else _MAX_SIZE):
            raise BundleError(
                f'The manifest of "{source}" has {name} = {value}, which is not possible.', "Build the bundle again."
            )
    if vision.tokens > _MAX_SIZE:
        raise BundleError(
            f'The manifest of "{source}" has T = {vision.tokens}, which is not possible.', "Build the bundle again."
        )
    if vision.width % vision.heads or vision.patch_size > vision.image_size or text.heads % text.kv_heads:
        raise BundleError(f'The manifest of "{source}" has sizes that do not divide.', "Build the bundle again.")


def _check_prompt(prompt: PromptSpec, source: str) -> None:
    for piece in (*prompt.before_video, *prompt.after_video, *prompt.next_turn):
        if (piece.text is not None) + (piece.token is not None) + piece.question != 1:
            raise BundleError(
                f'The manifest of "{source}" has a piece of the prompt that is not text, token or question.',
                "Build the bundle again.",
            )
    questions = sum(piece.question for piece in prompt.after_video)
    if questions != 1 or any(piece.question for piece in (*prompt.before_video, *prompt.next_turn)):
        raise BundleError(
            f'The manifest of "{source}" has a prompt without exactly one place for the question after the video.',
            "Build the bundle again.",
        )


def _check_paths(manifest: Manifest, source: str) -> None:
    listed = [f.path for f in manifest.files]
    for path in listed:
        if not _PATH.fullmatch(path) or len(path) > _MAX_PATH or path == MANIFEST_NAME:
            raise BundleError(
                f'"{source}" lists the path "{path[:80]}", which is not a plain path inside a bundle.',
                "Build it again.",
            )
    if len(set(listed)) != len(listed):
        raise BundleError(f'"{source}" lists a file twice.', "Build it again.")
    used = [g.file for g in manifest.graphs] + [w for g in manifest.graphs for w in g.weights]
    used += [t.file for t in manifest.tables] + [manifest.tokenizer]
    known = set(listed)
    for path in used:
        if path not in known:
            raise BundleError(f'"{source}" uses "{path[:80]}" but does not list it.', "Build it again.")
    for graph in manifest.graphs:
        if not graph.file.endswith(_GRAPH_END):
            raise BundleError(
                f'"{source}" has the graph "{graph.file[:80]}", expected a file that ends in {_GRAPH_END}.',
                "Build it again.",
            )
