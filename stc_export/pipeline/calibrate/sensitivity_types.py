"""Request and result of ``calibrate --sensitivity``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SCHEMA = "stc.sensitivity/1"


@dataclass(frozen=True)
class SensitivityRequest:
    """What was asked for.

    Attributes:
        model: Checkpoint directory, hub id, ``demo``, or a bundle whose checkpoint can be found by its name.
        precision: What ``build --precision`` takes, with few bits for some weights.
        data: Video, or folder with videos; ``None``: clips of the generated world.
        out: File for the evidence; ``None``: ``<model name>.sensitivity.json`` in the current directory.
    """

    model: str
    precision: str = "int4"
    data: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Cost:
    """What rounding some layers costs, against the same model unrounded.

    Attributes:
        cosine: Mean cosine of the LLM's last hidden states over all tokens of all prompts.
        divergence: Mean of KL(unrounded || rounded) of the answer's first token, in nats.
        same_first: Share of prompts with the same most likely first token.
        features: Mean cosine of the ViT's features over all tokens of all frames; ``None`` where no layer of it is
            rounded.
    """

    cosine: float
    divergence: float
    same_first: float
    features: float | None = None

    @property
    def loss(self) -> float:
        """What the hidden states lose, by which layers are compared."""
        return 1.0 - self.cosine


@dataclass(frozen=True)
class LayerCost:
    """What rounding one layer alone costs.

    Attributes:
        layer: Its name, as ``build --keep-precision`` takes it.
        cost: What it costs.
        extra_bytes: Bytes that the bundle grows by when it is left as it is.
        proposed: Whether it is proposed to leave it.
    """

    layer: str
    cost: Cost
    extra_bytes: int
    proposed: bool


@dataclass(frozen=True)
class SensitivityResult:
    """What rounding each layer costs, and which to leave as they are.

    Attributes:
        schema: Version of this document.
        model: Name of the model.
        target: Target whose form of weights was taken.
        precision: As asked.
        data: Where prompts came from.
        prompts: How many there were.
        tokens: Their tokens together.
        layers: One row per rounded layer, in the order of the bundle.
        rounded: Cost of all layers together.
        proposed: Cost of all layers but those proposed.
        extra_bytes: Bytes that the proposal adds to the bundle.
    """

    schema: str
    model: str
    target: str
    precision: str
    data: str
    prompts: int
    tokens: int
    layers: tuple[LayerCost, ...]
    rounded: Cost
    proposed: Cost
    extra_bytes: int

    @property
    def keep(self) -> str:
        """What ``build --keep-precision`` takes to follow the proposal."""
        return ",".join(row.layer for row in self.layers if row.proposed)
