"""``calibrate --sensitivity``: what rounding each layer costs, and what to leave in higher precision.

One layer after the other is rounded as the bundle would round it, and the model is run on the same prompts in PyTorch,
one decoder layer in memory at a time. What comes before the rounded layer is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stc_export.exporter.checkpoint import Checkpoint
from stc_export.exporter.rounded import rounded_checkpoint
from stc_export.exporter.weights import WeightRecipe
from stc_export.families.base import Answer
from stc_export.pipeline.calibrate.sensitivity_types import (
    SCHEMA,
    Cost,
    LayerCost,
    SensitivityRequest,
    SensitivityResult,
)
from stc_export.pipeline.output_file import check_output_file
from stc_export.pipeline.plan import Prepared, prepare
from stc_export.pipeline.precisions import layer_name
from stc_export.pipeline.prompts import read_prompts
from stc_export.pipeline.source import find_source
from stc_export.pipeline.types import BuildRequest
from stc_export.spec import codec
from stc_export.spec.errors import CheckpointError, UsageError
from stc_export.spec.manifest import MANIFEST_NAME, read_manifest
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
    names = _layers(prepared)
    if not names:
        raise UsageError(
            f'--precision is "{request.precision}", which rounds no weights of the LLM.', "Give for example int4."
        )
    prompts = read_prompts(prepared, request.data)
    embeds = prepared.model.embed_prompts(prepared.checkpoint, prepared.preprocessing, prompts)
    runs = _Runs(prepared, embeds)
    rows = []
    with progress.stage("layers", len(names) + 2, "layers") as advance:
        for name, recipe in names:
            rows.append(LayerCost(name, runs.cost([recipe]), _extra(recipe), proposed=False))
            advance(1)
        rows = _propose(rows)
        whole = runs.cost([recipe for _, recipe in names])
        advance(1)
        rest = runs.cost([recipe for (_, recipe), row in zip(names, rows, strict=True) if not row.proposed])
        advance(1)
    result = SensitivityResult(
        schema=SCHEMA,
        model=prepared.plan.model,
        target=prepared.target.name,
        precision=request.precision,
        data="world" if request.data is None else request.data.name,
        prompts=len(prompts),
        tokens=sum(len(one) for one in embeds),
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
        return prepare(BuildRequest(request.model, precision=request.precision), find_source(request.model))
    manifest = read_manifest(bundle)
    try:
        source = find_source(manifest.model.name)
    except CheckpointError as error:
        raise UsageError(
            f'The bundle was built from "{manifest.model.name}", and a bundle does not hold its checkpoint.',
            "Give the checkpoint in place of the bundle.",
        ) from error
    asked = BuildRequest(manifest.model.name, manifest.target, precision=request.precision, flavour=manifest.flavour)
    return prepare(asked, source)


def _layers(prepared: Prepared) -> list[tuple[str, WeightRecipe]]:
    """Return name and recipe of the rounded layers of the LLM."""
    files = {file for graph in prepared.split.graphs if graph.role == "llm" for file in graph.weight_files}
    weights = prepared.split.weights
    return [(layer_name(file, r), r) for file in weights if file in files for r in weights[file] if r.scheme]


@dataclass(frozen=True)
class _Exact:
    """The unrounded model: its states before each layer and behind the last, and its answers."""

    states: tuple[States, ...]
    answers: tuple[Answer, ...]


class _Runs:
    """Runs the model with some layers rounded, and compares it with the unrounded one."""

    def __init__(self, prepared: Prepared, embeds: States) -> None:
        self._prepared = prepared
        states: list[States] = [embeds]
        language = prepared.model.language(prepared.checkpoint)
        for layer in range(prepared.model.dims.text.layers):
            states.append(language.run(layer, states[-1]).hidden)
        self._exact = _Exact(tuple(states), language.answer(states[-1]))

    def cost(self, recipes: Sequence[WeightRecipe]) -> Cost:
        """Return what rounding these weights costs."""
        first = min((_layer(recipe) for recipe in recipes), default=0)
        answers = self._answers(rounded_checkpoint(self._prepared.checkpoint, recipes), first)
        pairs = list(zip(self._exact.answers, answers, strict=True))
        return Cost(
            cosine=_mean(cosine(found.hidden, exact.hidden) for exact, found in pairs),
            divergence=_mean(divergence(exact.logits, found.logits) for exact, found in pairs),
            same_first=_mean(float(exact.logits.argmax() == found.logits.argmax()) for exact, found in pairs),
        )

    def _answers(self, checkpoint: Checkpoint, first: int) -> tuple[Answer, ...]:
        language, hidden = self._prepared.model.language(checkpoint), self._exact.states[first]
        for layer in range(first, self._prepared.model.dims.text.layers):
            hidden = language.run(layer, hidden).hidden
        return language.answer(hidden)


def _layer(recipe: WeightRecipe) -> int:
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
