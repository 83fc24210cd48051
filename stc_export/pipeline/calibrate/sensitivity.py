"""``calibrate --sensitivity``: what rounding each layer costs, and what to leave in higher precision.

One layer after the other is rounded as the bundle would round it, and the model is run on the same prompts in PyTorch,
one decoder layer in memory at a time. What comes before a rounded layer of the decoder is not computed again. What
flows into rounded layers of the ViT is rounded as well, each token by a scale of its own: so it is on a CPU, while
TensorRT takes scales that are chosen from data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stc_engines import find_target
from stc_export.exporter.checkpoint import Checkpoint
from stc_export.exporter.rounded import rounded_checkpoint
from stc_export.exporter.weights import WeightRecipe
from stc_export.families.base import Answer, Embedded, Prompt
from stc_export.pipeline.calibrate.sensitivity_types import (
    SCHEMA,
    Cost,
    LayerCost,
    SensitivityRequest,
    SensitivityResult,
)
from stc_export.pipeline.output_file import check_output_file
from stc_export.pipeline.plan import Prepared, prepare
from stc_export.pipeline.precisions import layer_name, read_precisions
from stc_export.pipeline.prompts import read_prompts
from stc_export.pipeline.source import DEMO, Source, find_source
from stc_export.pipeline.types import BuildRequest
from stc_export.spec import codec
from stc_export.spec.errors import CheckpointError, UsageError
from stc_export.spec.manifest import MANIFEST_NAME, Role, read_manifest
from stc_export.spec.progress import Progress
from stc_export.validate.closeness import cosine, divergence

#: Layers are proposed, those of the highest loss per byte first, until they have this share of the loss of all. The
#: loss is 1 - cosine: what layers lose adds up, while KL over a few answers can fall when more is rounded.
_SHARE = 0.5

States = Sequence[NDArray[np.float32]]


def run_sensitivity(request: SensitivityRequest, progress: Progress) -> SensitivityResult:
    """Measure what rounding costs, layer by layer, and write the evidence.

    Raises:
        StcError: The request cannot be carried out.
    """
    prepared = _prepare(request)
    out = evidence_path(request)
    check_output_file("--out", out, ".json")
    layers = _layers(prepared)
    if not layers:
        raise UsageError(f'--precision is "{request.precision}", which rounds no weights.', "Give for example int4.")
    prompts = read_prompts(prepared, request.data)
    runs = _Runs(prepared, prompts)
    rows = []
    with progress.stage("layers", len(layers) + 2, "layers") as advance:
        for layer in layers:
            rows.append(LayerCost(layer.name, runs.cost([layer]), _extra(layer.recipe), proposed=False))
            advance(1)
        rows = _propose(rows)
        whole = runs.cost(layers)
        advance(1)
        rest = runs.cost([layer for layer, row in zip(layers, rows, strict=True) if not row.proposed])
        advance(1)
    result = SensitivityResult(
        schema=SCHEMA,
        model=prepared.plan.model,
        target=prepared.target.name,
        precision=request.precision,
        data="world" if request.data is None else request.data.name,
        prompts=len(prompts),
        tokens=runs.tokens,
        layers=tuple(rows),
        rounded=whole,
        proposed=rest,
        extra_bytes=sum(row.extra_bytes for row in rows if row.proposed),
    )
    out.write_text(codec.to_json(result), encoding="utf-8")
    return result


def evidence_path(request: SensitivityRequest) -> Path:
    """Return where the evidence is written."""
    return request.out or Path(f"{Path(request.model).name.removesuffix('.stc')}.sensitivity.json")


def _prepare(request: SensitivityRequest) -> Prepared:
    """Prepare the build that would round the weights; of a bundle, that of its model for its target."""
    bundle = Path(request.model)
    if not (bundle / MANIFEST_NAME).is_file():
        asked = BuildRequest(request.model, precision=request.precision)
        return _prepare_build(request, asked, find_source(request.model))
    manifest = read_manifest(bundle)
    try:
        source = find_source(manifest.model.name)
    except CheckpointError as error:
        raise UsageError(
            f'The bundle was built from "{manifest.model.name}", and a bundle does not hold its checkpoint.',
            "Give the checkpoint in place of the bundle.",
        ) from error
    asked = BuildRequest(manifest.model.name, manifest.target, precision=request.precision, flavour=manifest.flavour)
    return _prepare_build(request, asked, source)


def _prepare_build(request: SensitivityRequest, asked: BuildRequest, source: Source) -> Prepared:
    """Prepare a build. One that chooses scales from data is given that of the request; they are not used here."""
    scheme = read_precisions(asked.precision, find_target(asked.target or "cpu")).schemes.get("vit")
    if scheme is None or not scheme.calibrated:
        return prepare(asked, source)
    if request.data is None and source.name != DEMO:
        raise UsageError(
            f"vit={scheme.precision} on {asked.target} has scales that are chosen from data, and --data is not given.",
            "Give a video, or a folder with videos, of what the model will see.",
        )
    return prepare(replace(asked, calib=request.data), source)


@dataclass(frozen=True)
class _Layer:
    """A layer that is rounded."""

    name: str
    role: Role
    recipe: WeightRecipe


def _layers(prepared: Prepared) -> list[_Layer]:
    """Return the rounded layers in the order of the bundle."""
    roles: dict[str, Role] = {
        file: graph.role
        for graph in prepared.split.graphs
        if graph.role in prepared.precisions.schemes
        for file in graph.weight_files
    }
    return [
        _Layer(layer_name(file, recipe), roles[file], recipe)
        for file, recipes in prepared.split.weights.items()
        for recipe in recipes
        if recipe.scheme is not None
    ]


@dataclass(frozen=True)
class _Exact:
    """The unrounded model: features, states of the decoder before each layer and behind the last, and answers."""

    features: States
    states: tuple[States, ...]
    answers: tuple[Answer, ...]


class _Runs:
    """Runs the model with some layers rounded, and compares it with the unrounded one."""

    def __init__(self, prepared: Prepared, prompts: Sequence[Prompt]) -> None:
        self._prepared, self._prompts = prepared, prompts
        embedded = self._embed(prepared.checkpoint, [])
        states: list[States] = [embedded.prompts]
        language = prepared.model.language(prepared.checkpoint)
        for layer in range(prepared.model.dims.text.layers):
            states.append(language.run(layer, states[-1]).hidden)
        self._exact = _Exact(embedded.features, tuple(states), language.answer(states[-1]))

    @property
    def tokens(self) -> int:
        """Tokens of all prompts together."""
        return sum(len(one) for one in self._exact.states[0])

    def cost(self, layers: Sequence[_Layer]) -> Cost:
        """Return what rounding these layers costs."""
        checkpoint = rounded_checkpoint(self._prepared.checkpoint, [layer.recipe for layer in layers])
        vision = [layer for layer in layers if layer.role == "vit"]
        if vision:
            seen = self._embed(checkpoint, vision)
            features = _mean(cosine(x, y) for x, y in zip(seen.features, self._exact.features, strict=True))
            return replace(self._compared(self._answers(checkpoint, 0, seen.prompts)), features=features)
        first = min((_number(layer.recipe) for layer in layers), default=0)
        return self._compared(self._answers(checkpoint, first, self._exact.states[first]))

    def _compared(self, answers: Sequence[Answer]) -> Cost:
        pairs = list(zip(self._exact.answers, answers, strict=True))
        return Cost(
            cosine=_mean(cosine(found.hidden, exact.hidden) for exact, found in pairs),
            divergence=_mean(divergence(exact.logits, found.logits) for exact, found in pairs),
            same_first=_mean(float(exact.logits.argmax() == found.logits.argmax()) for exact, found in pairs),
        )

    def _embed(self, checkpoint: Checkpoint, vision: Sequence[_Layer]) -> Embedded:
        rounded = {
            name: layer.recipe.scheme.arithmetic
            for layer in vision
            if layer.recipe.scheme is not None and layer.recipe.scheme.arithmetic is not None
            for name in layer.recipe.sources
        }
        prepared = self._prepared
        return prepared.model.embed_prompts(checkpoint, prepared.preprocessing, self._prompts, rounded)

    def _answers(self, checkpoint: Checkpoint, first: int, hidden: States) -> tuple[Answer, ...]:
        language = self._prepared.model.language(checkpoint)
        for layer in range(first, self._prepared.model.dims.text.layers):
            hidden = language.run(layer, hidden).hidden
        return language.answer(hidden)


def _number(recipe: WeightRecipe) -> int:
    """Return the number of the decoder layer that a weight is in: ``layers.3.qkv.weight`` is in 3."""
    return int(recipe.name.split(".")[1])


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _extra(recipe: WeightRecipe) -> int:
    return replace(recipe, scheme=None).nbytes - recipe.nbytes


def _propose(rows: Sequence[LayerCost]) -> list[LayerCost]:
    """Propose the layers with the highest loss per byte that together have a share of the loss of all."""
    wanted = _SHARE * sum(row.cost.loss for row in rows)
    chosen: set[str] = set()
    for row in sorted(rows, key=lambda row: -row.cost.loss / row.extra_bytes):
        if wanted <= 0:
            break
        chosen.add(row.layer)
        wanted -= row.cost.loss
    return [replace(row, proposed=row.layer in chosen) for row in rows]
