"""The settings of gate, cacher, pruner and KV memory for one stream.

A policy is data. It is read from JSON (all keys optional, unknown keys refused) and never changes while a stream runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from stc_export.spec import codec
from stc_export.spec.errors import PolicyError, nearest
from stc_export.spec.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GateMode = Literal["off", "paper", "adaptive"]
Selection = Literal["gate", "per_layer", "shared"]
Metric = Literal["cosine", "l1", "l2", "dot"]
CacheUpdate = Literal["reference", "rolling"]
Positions = Literal["contiguous", "original"]
Budget = Literal["fixed", "vidcom2", "dtd", "evs", "dycoke"]

SELECTIONS: tuple[Selection, ...] = get_args(Selection)
METRIC_NAMES: tuple[Metric, ...] = get_args(Metric)
_GATE_MODES: tuple[GateMode, ...] = get_args(GateMode)
_CACHE_UPDATES: tuple[CacheUpdate, ...] = get_args(CacheUpdate)
_POSITIONS: tuple[Positions, ...] = get_args(Positions)
_BUDGETS: tuple[Budget, ...] = get_args(Budget)
#: A policy has some hundred bytes.
_MAX_FILE_BYTES = 1024 * 1024
#: No number of frames or tokens is larger: a year at 30 frames per second.
_MOST = 1_000_000_000
#: What ``dycoke`` cannot go below: the first of each four frames is kept whole.
_DYCOKE_LEAST = 0.25


@dataclass(frozen=True)
class GatePolicy:
    """Which frames are encoded fully, selectively or not at all.

    Attributes:
        mode: ``off`` encodes every frame fully. ``paper`` encodes every ``cacher.interval``-th frame fully and the
            others selectively with ``cacher.update_ratio``. ``adaptive`` counts the tokens that changed.
        tau: A token has changed when its patch embedding's cosine with the reference is below this. In (0, 1].
        margin: A selective frame also recomputes the tokens within so many places of a changed one, in all eight
            directions of the grid: attention carries a change to its neighbours first. At least 0.
        cut: A frame with a larger share of changed tokens, margins apart, is encoded fully: a scene cut. In [0, 1].
        floor: A selective frame recomputes at least this share of its tokens. In [0, 1].
        max_interval: At least one of so many consecutive frames is encoded fully. At least 1.
        warmup: The first so many frames of a stream are encoded fully: the first of a video can be coded worse than the
            rest, and what is cached of it then misleads. At least 1.
        bucket: A selective frame recomputes a multiple of so many tokens, so that an engine sees few sizes: a CUDA
            graph stands for each. At least 1.
    """

    mode: GateMode = "adaptive"
    tau: float = 0.88
    margin: int = 1
    cut: float = 0.4
    floor: float = 0.0
    max_interval: int = 7
    warmup: int = 2
    bucket: int = 1


@dataclass(frozen=True)
class CacherPolicy:
    """How a selective frame is encoded.

    Attributes:
        selection: Who names the R recomputed tokens: ``gate`` (once, from the patch embeddings), ``shared`` (keys of
            the first layer) or ``per_layer`` (keys of each layer, as published).
        update: ``reference``: only full frames write the feature cache, as published. ``rolling``: recomputed tokens
            overwrite theirs.
        interval: For gate mode ``paper``: one of so many frames is full (N of the paper). At least 1.
        update_ratio: For gate mode ``paper``: R / T of selective frames. In (0, 1].
        metric: How the selection compares a token with what is cached of it, and recomputes the R lowest: ``cosine``,
            ``dot``, or the negative distance ``l1`` or ``l2``. All but ``cosine`` need graphs that ``build --metrics``
            adds, and another gate mode than ``adaptive``, whose ``tau`` is a cosine.
        gain: For gate mode ``adaptive`` with selection ``gate``: the share of what a full frame finds for a token that
            has not changed; the rest stays as cached. 1 forgets what was before. Above 0 and at most 1.
        drift: For the same: tokens that are not recomputed move by this share of what the recomputed but unchanged
            ones moved on average. 0 leaves them where they are. In [0, 1].
    """

    selection: Selection = "gate"
    update: CacheUpdate = "rolling"
    interval: int = 4
    update_ratio: float = 0.25
    metric: Metric = "cosine"
    gain: float = 0.65
    drift: float = 0.4


@dataclass(frozen=True)
class PrunerPolicy:
    """Which visual tokens of a frame reach the LLM.

    Attributes:
        method: A pruner graph of the bundle: ``none``, ``random``, ``stc_gaussian``, ``stc_dual_anchor``, ...
        keep: K / M, the share of a frame's visual tokens that is kept. In (0, 1].
        alpha: Weight of the temporal against the spatial anchor (``stc_dual_anchor``). In [0, 1].
        history: Frames that the temporal anchor remembers (W, ``stc_dual_anchor`` and ``vidcom2``), and those before
            the current one that the budgets ``vidcom2`` and ``evs`` look at. At least 1.
        seed: Start of the sequence of random numbers (``random``). At least 0.
        budget: What decides K of each frame: ``fixed``, the same for all; or, from the content, ``vidcom2``, ``dtd``
            and ``evs``; or ``dycoke``, by the frame's place among four. The method says which tokens these are.
        threshold: A token whose cosine with the one at its place in the frame before is above this counts as known
            (budget ``dtd``). In [0, 1].
    """

    method: str = "stc_dual_anchor"
    keep: float = 0.4
    alpha: float = 0.5
    history: int = 16
    seed: int = 0
    budget: Budget = "fixed"
    threshold: float = 0.5


@dataclass(frozen=True)
class MemoryPolicy:
    """What the LLM remembers of an endless stream.

    Attributes:
        kv_tokens: Tokens that the stream's memory may hold: system prompt and visual tokens. ``None``: half of what
            the model's context leaves beside ``answer_tokens``, at most 8,192.
        answer_tokens: Room for one question with its answer, on top of ``kv_tokens``. At least 16.
        positions: ``contiguous`` numbers kept tokens without gaps; ``original`` leaves the gaps of pruned ones.
        frames: Most frames that are remembered; skipped ones do not count. ``None``: as many as the tokens allow.
    """

    kv_tokens: int | None = None
    answer_tokens: int = 512
    positions: Positions = "contiguous"
    frames: int | None = None


@dataclass(frozen=True)
class Policy:
    """All settings of one stream. ``Policy()`` is the default; see :func:`named_policies` for the others."""

    gate: GatePolicy = field(default_factory=GatePolicy)
    cacher: CacherPolicy = field(default_factory=CacherPolicy)
    pruner: PrunerPolicy = field(default_factory=PrunerPolicy)
    memory: MemoryPolicy = field(default_factory=MemoryPolicy)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            PolicyError: A value outside its range.
        """
        _check_choice("gate.mode", self.gate.mode, _GATE_MODES)
        _check_choice("cacher.selection", self.cacher.selection, SELECTIONS)
        _check_choice("cacher.update", self.cacher.update, _CACHE_UPDATES)
        _check_choice("cacher.metric", self.cacher.metric, METRIC_NAMES)
        _check_choice("memory.positions", self.memory.positions, _POSITIONS)
        _check_choice("pruner.budget", self.pruner.budget, _BUDGETS)
        _check_share("gate.tau", self.gate.tau, low_open=True)
        _check_share("gate.cut", self.gate.cut)
        _check_share("gate.floor", self.gate.floor)
        _check_share("cacher.update_ratio", self.cacher.update_ratio, low_open=True)
        _check_share("cacher.gain", self.cacher.gain, low_open=True)
        _check_share("cacher.drift", self.cacher.drift)
        _check_share("pruner.keep", self.pruner.keep, low_open=True)
        _check_share("pruner.alpha", self.pruner.alpha)
        _check_share("pruner.threshold", self.pruner.threshold)
        _check_keep(self.pruner)
        _check_count("gate.margin", self.gate.margin, 0)
        _check_count("gate.max_interval", self.gate.max_interval, 1)
        _check_count("gate.warmup", self.gate.warmup, 1)
        _check_count("gate.bucket", self.gate.bucket, 1)
        _check_count("cacher.interval", self.cacher.interval, 1)
        _check_count("pruner.history", self.pruner.history, 1)
        _check_least("pruner.seed", self.pruner.seed, 0)
        _check_least("memory.answer_tokens", self.memory.answer_tokens, 16)
        if self.memory.kv_tokens is not None:
            _check_least("memory.kv_tokens", self.memory.kv_tokens, 1)
        if self.memory.frames is not None:
            _check_least("memory.frames", self.memory.frames, 1)
        _check_metric(self.gate.mode, self.cacher.metric)


def named_policies() -> Mapping[str, Policy]:
    """Return the policies that ``--policy`` knows by name.

    ``adaptive`` is the default, and ``fast`` the same with fewer full frames: on seven real videos they follow the
    dense encoding at least as closely as the published cacher with N = 4 and N = 8, for less work where the camera
    stands still (docs/results.md).
    ``paper`` is the published operating point of cacher and pruner together (N = 2, 25 % recomputed, 30 % kept;
    STC paper, section 4) with the published selection and cache update; ``off`` compresses nothing.
    """
    return {
        "adaptive": Policy(),
        "fast": Policy(gate=GatePolicy(tau=0.8, max_interval=16)),
        "paper": Policy(
            gate=GatePolicy(mode="paper"),
            cacher=CacherPolicy(selection="per_layer", update="reference", interval=2, update_ratio=0.25),
            pruner=PrunerPolicy(keep=0.3),
        ),
        "off": Policy(gate=GatePolicy(mode="off"), pruner=PrunerPolicy(method="none", keep=1.0)),
    }


def policy_from_text(text: str, source: str) -> Policy:
    """Read a policy from JSON text; ``source`` names it in errors.

    Raises:
        PolicyError: Not JSON, unknown key, wrong type or value out of range.
    """
    try:
        return codec.from_json(Policy, text)
    except codec.DecodeError as error:
        raise PolicyError(
            f'Policy "{source}" cannot be used: {error}.',
            "Correct the file; every key and its range is in docs/policy.md.",
        ) from error


def policy_from_argument(argument: str, path: Path) -> Policy:
    """Resolve the value of ``--policy``: a known name, or a JSON file.

    Args:
        argument: What the user typed.
        path: The same as a path.

    Raises:
        PolicyError: Neither a name nor a readable file, or a bad file.
    """
    known = named_policies()
    if argument in known:
        return known[argument]
    try:
        text = read_text(path, _MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f'Policy "{argument}" is neither a named policy nor a readable file.', nearest(argument, known)
        ) from error
    return policy_from_text(text, argument)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise PolicyError(f'{name} is "{value}".', nearest(str(value), choices))


def _check_metric(mode: GateMode, metric: Metric) -> None:
    if mode == "adaptive" and metric != "cosine":
        raise PolicyError(
            f'cacher.metric is "{metric}", but gate.mode "adaptive" compares the cosine with gate.tau.',
            'Set gate.mode to "paper", or cacher.metric to "cosine".',
        )


def _check_share(name: str, value: float, *, low_open: bool = False) -> None:
    if not 0.0 <= value <= 1.0 or (low_open and value == 0.0):
        bounds = "above 0 and at most 1" if low_open else "from 0 to 1"
        raise PolicyError(f"{name} is {value:g}, expected a number {bounds}.", f"Set {name} inside that range.")


def _check_keep(pruner: PrunerPolicy) -> None:
    """Check that a budget can keep as little as it is asked to."""
    least: Mapping[Budget, float] = {"dycoke": _DYCOKE_LEAST}
    if pruner.keep < least.get(pruner.budget, 0.0):
        raise PolicyError(
            f'pruner.keep is {pruner.keep:g}, but the budget "{pruner.budget}" keeps the first of each four frames '
            f"whole: at least {_DYCOKE_LEAST:g} of all tokens.",
            f"Set pruner.keep to at least {_DYCOKE_LEAST:g}, or choose another pruner.budget.",
        )


def _check_count(name: str, value: int, least: int) -> None:
    """Check a number of frames or tokens, which nothing but this bounds."""
    _check_least(name, value, least)
    if value > _MOST:
        raise PolicyError(f"{name} is {value}, expected at most {_MOST}.", f"Lower {name}.")


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise PolicyError(f"{name} is {value}, expected at least {least}.", f"Raise {name}.")
