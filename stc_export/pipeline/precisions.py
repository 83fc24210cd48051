"""What ``--precision`` asks for: one type for all that graphs hand each other, few bits for weights of some graphs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from stc_calib.schemes import KV_FORMATS, SCHEMES, TABLE_SCHEMES, Arithmetic, Scheme, schemes_of
from stc_engines.table import Target
from stc_export.spec.errors import UnsupportedError, UsageError, nearest
from stc_export.spec.interface import kv_format
from stc_export.spec.manifest import (
    PRECISION_DTYPES,
    DType,
    Flavour,
    KVFormat,
    Manifest,
    Precision,
    QuantisedPrecision,
    Role,
)

if TYPE_CHECKING:
    from stc_export.exporter.graphs import SplitModel
    from stc_export.exporter.parity import Computed
    from stc_export.exporter.weights import WeightRecipe

#: All that can be exported, for any target.
EXPORTED: tuple[str, ...] = (*PRECISION_DTYPES, *get_args(QuantisedPrecision))


_BY_DATA: Mapping[Arithmetic, Computed] = {"int8": "int8 by data", "fp8": "fp8 by data"}
_ROUNDED_KV: Mapping[Precision, Computed] = {
    "fp32": "fp32, kv int8",
    "fp16": "fp16, kv int8",
    "bf16": "bf16, kv int8",
}
#: Stand beside the roles in ``--precision``: the memory of the LLM, and the embedding table of the host.
_KV, _EMBED = "kv", "embed"


@dataclass(frozen=True)
class Precisions:
    """The precisions of a bundle.

    Attributes:
        floats: Type of state, of tables and of what graphs hand each other.
        schemes: How the weights of linear layers are rounded, for the roles whose weights are.
        kv: How keys and values of the LLM are kept.
        embed: How the embedding table of the host is rounded, if it is.
    """

    floats: Precision
    schemes: Mapping[Role, Scheme]
    kv: KVFormat = "floats"
    embed: Scheme | None = None

    @property
    def dtype(self) -> DType:
        """Type of state, of tables and of what graphs hand each other."""
        return PRECISION_DTYPES[self.floats]

    def of(self, role: Role) -> Precision | QuantisedPrecision:
        """Return what a manifest says of the graphs of a role."""
        return self.schemes[role].precision if role in self.schemes else self.floats

    def products(self, role: Role) -> Precision | Arithmetic:
        """Return what the graphs of a role compute linear layers in."""
        scheme = self.schemes.get(role)
        return self.floats if scheme is None or scheme.arithmetic is None else scheme.arithmetic

    def computed(self, role: Role) -> Computed:
        """Return what decides how exact the graphs of a role are."""
        scheme = self.schemes.get(role)
        if role == "llm" and self.kv == "int8":
            return _ROUNDED_KV[self.floats]
        if scheme is None or scheme.arithmetic is None:
            return self.floats
        return _BY_DATA[scheme.arithmetic] if scheme.calibrated else "int8"

    @property
    def text(self) -> str:
        """What people read, e.g. ``fp16`` or ``fp16, llm int4``."""
        kv = {} if self.kv == "floats" else {_KV: self.kv}
        embed = {} if self.embed is None else {_EMBED: self.embed.precision}
        rounded = {role: scheme.precision for role, scheme in self.schemes.items()} | kv | embed
        return ", ".join((self.floats, *(f"{what} {precision}" for what, precision in rounded.items())))


def read_precisions(asked: str | None, target: Target) -> Precisions:
    """Read ``--precision``: a name for all graphs and ``ROLE=NAME`` for those of a role, with commas between.

    A name of few bits for all graphs means those that can have it; all else has the target's default type. In place of
    a role stand ``kv``, the memory of the LLM, and ``embed``, the table of the host: they have few bits only where that
    is asked for by these names.

    Args:
        asked: What the user typed; ``None``: the target's default.
        target: Says which precisions there are.

    Raises:
        UnsupportedError: A precision or role that does not exist, or that the target or the role does not have.
        UsageError: Two parts that contradict each other.
    """
    wanted = _parse(asked) if asked is not None else {}
    for name in wanted.values():
        _check_name(name, target)
    general = wanted.pop("", "")
    floats = _floats(general, target)
    kv, embed = _kv(wanted.pop(_KV, floats), floats), _embed(wanted.pop(_EMBED, floats), floats)
    for role, name in wanted.items():
        _check_role(role, name, floats, target)
    schemes: dict[Role, Scheme] = {}
    for known, named in schemes_of(target.backend).items():
        name = wanted.get(known, general)
        if name in named:
            schemes[known] = named[name]
    return Precisions(floats, schemes, kv, embed)


def read_head(asked: str | None, precisions: Precisions, target: Target) -> Scheme | None:
    """Read ``--head``: how the output matrix of the LLM is rounded; ``None`` if it is not.

    Raises:
        UnsupportedError: A precision that does not exist, or that the target or the matrix does not have.
        UsageError: The layers before it are not rounded.
    """
    if asked is None:
        return None
    _check_name(asked, target)
    known = schemes_of(target.backend)["llm"]
    if asked not in known:
        raise UnsupportedError(f"The output matrix cannot be {asked}.", nearest(asked, known))
    if "llm" not in precisions.schemes:
        raise UsageError(
            f"--head is {asked}, but the layers of the LLM are not rounded.",
            f"Add for example --precision llm={asked}.",
        )
    return known[asked]


def check_kv(kv: KVFormat, flavour: Flavour, target: Target) -> None:
    """Check that graphs of a flavour can keep keys and values in a format on a target.

    Raises:
        UnsupportedError: They cannot.
    """
    if kv in KV_FORMATS[flavour][target.backend.kind]:
        return
    other = next(other for other, known in KV_FORMATS.items() if kv in known[target.backend.kind])
    raise UnsupportedError(
        f"On {target.name} graphs of the flavour {flavour} cannot keep keys and values in {kv}: what writes them in "
        "place takes floating point numbers only.",
        f"Build with --flavour {other}.",
    )


def bundle_precisions(manifest: Manifest) -> Precisions:
    """Return the precisions of a bundle; backends for which it may be differ in the bytes of scales only.

    What a manifest lacks has none: that it does is told by whoever opens the bundle.
    """
    schemes = {
        graph.role: named[graph.role][graph.precision]
        for named in SCHEMES.values()
        for graph in manifest.graphs
        if graph.precision in named.get(graph.role, {})
    }
    kept: list[KVFormat] = [kv_format(graph) for graph in manifest.graphs if graph.role == "llm"]
    tables = {table.name: TABLE_SCHEMES.get(table.dtype) for table in manifest.tables}
    return Precisions(manifest.precision, schemes, kept[0] if kept else "floats", tables.get(_EMBED))


def check_blocks(recipes: Iterable[WeightRecipe]) -> None:
    """Check that blocks divide the layers that are to be rounded.

    Raises:
        UnsupportedError: They do not.
    """
    for recipe in recipes:
        if recipe.scheme is not None and not recipe.scheme.fits(recipe.shape[1]):
            raise UnsupportedError(
                f"In {recipe.scheme.precision} {recipe.scheme.block} weights share a scale, and {recipe.name} has "
                f"{recipe.shape[1]} inputs.",
                "Choose another precision for these graphs.",
            )


def layer_name(file: str, recipe: WeightRecipe) -> str:
    """Return the name of a linear layer for people, e.g. ``llm.layers.0.qkv``."""
    return f"{file.removesuffix('.weights')}.{recipe.name.removesuffix('.weight')}"


@dataclass(frozen=True)
class KeptLayers:
    """Layers that are left in the floating point type.

    Attributes:
        split: The model with them.
        names: Their names.
    """

    split: SplitModel
    names: tuple[str, ...]


def keep_layers(split: SplitModel, patterns: Sequence[str]) -> KeptLayers:
    """Leave layers as they are that would be rounded.

    Args:
        split: A model.
        patterns: Names of layers, in which ``*`` stands for anything.

    Raises:
        UsageError: A pattern that fits no rounded layer, or nothing is left to round.
    """
    rounded = [layer_name(file, r) for file, recipes in split.weights.items() for r in recipes if r.scheme is not None]
    for pattern in patterns:
        if not fnmatch.filter(rounded, pattern):
            raise UsageError(f'--keep-precision has "{pattern}", which fits no rounded layer.', _rounded_text(rounded))
    kept = {name for pattern in patterns for name in fnmatch.filter(rounded, pattern)}
    if kept and kept == set(rounded):
        raise UsageError("--keep-precision keeps all layers that would be rounded.", "Name fewer of them.")

    def unrounded(file: str, recipe: WeightRecipe) -> WeightRecipe:
        return replace(recipe, scheme=None) if layer_name(file, recipe) in kept else recipe

    weights = {file: tuple(unrounded(file, r) for r in recipes) for file, recipes in split.weights.items()}
    return KeptLayers(replace(split, weights=weights), tuple(name for name in rounded if name in kept))


def _rounded_text(rounded: Sequence[str]) -> str:
    if not rounded:
        return "Add for example --precision int4."
    return f"Those are {rounded[0]} to {rounded[-1]}, in which * may stand for anything."


def _parse(asked: str) -> dict[str, str]:
    """Return role -> precision, under no name that for all graphs."""
    wanted: dict[str, str] = {}
    for part in asked.split(","):
        role, _, name = (piece.strip() for piece in part.rpartition("="))
        if role in wanted:
            raise UsageError(
                f'--precision is "{asked}", which names {f"{role} twice" if role else "two for all graphs"}.',
                "Name one for all graphs, and one for each role that differs, e.g. fp16,llm=int4.",
            )
        wanted[role] = name
    return wanted


def _check_name(name: str, target: Target) -> None:
    """Check that a precision can be exported and that the target computes it, to which ``int4-128`` is int4."""
    if name.partition("-")[0] not in target.precisions:
        known = [known for known in EXPORTED if known.partition("-")[0] in target.precisions]
        raise UnsupportedError(f'Target {target.name} has no precision "{name}".', nearest(name, known))
    if name not in EXPORTED:
        raise UnsupportedError(f'Precision "{name}" cannot be exported yet.', nearest(name, EXPORTED))


def _check_role(role: str, name: str, floats: Precision, target: Target) -> None:
    if role not in get_args(Role):
        raise UnsupportedError(f'--precision names the graphs "{role}".', nearest(role, (*get_args(Role), _KV, _EMBED)))
    if name in PRECISION_DTYPES and name != floats:
        raise UsageError(
            f"--precision asks for {role}={name} in an {floats} bundle: what graphs hand each other has one type.",
            f"Name {name} for all graphs, e.g. {name},llm=int4.",
        )
    known = (floats, *(one for other, named in schemes_of(target.backend).items() if other == role for one in named))
    if name not in known:
        raise UnsupportedError(f"The {role} graphs of {target.name} cannot be {name}.", nearest(name, known))


def _kv(name: str, floats: Precision) -> KVFormat:
    if name == floats:
        return "floats"
    if name == "int8":
        return "int8"
    raise UnsupportedError(f"Keys and values of an {floats} bundle cannot be {name}.", nearest(name, (floats, "int8")))


def _embed(name: str, floats: Precision) -> Scheme | None:
    if name == floats:
        return None
    if name in TABLE_SCHEMES:
        return TABLE_SCHEMES[name]
    known = (floats, *TABLE_SCHEMES)
    raise UnsupportedError(f"The embedding table of an {floats} bundle cannot be {name}.", nearest(name, known))


def _floats(general: str, target: Target) -> Precision:
    name = general if general in PRECISION_DTYPES else _default_floats(target)
    for precision in PRECISION_DTYPES:
        if precision == name:
            return precision
    raise UnsupportedError(f'Precision "{name}" is for weights only.', nearest(name, PRECISION_DTYPES))


def _default_floats(target: Target) -> str:
    """Return the precision that all graphs have by default: what they hand each other is never converted."""
    wanted = set(vars(target.default_precision).values())
    if len(wanted) > 1:
        raise UnsupportedError(
            f"Target {target.name} has graphs of several precisions by default ({target.default_precision.text}), and "
            "what one hands the next must have one type.",
            f"Name one for all with --precision. Known: {', '.join(PRECISION_DTYPES)}.",
        )
    return target.default_precision.llm
