"""How weights are rounded: ``--rounding``. To the nearest, or to the nearest after scales of AWQ were folded in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stc_calib.awq import Scales, choose_scales
from stc_export.exporter.checkpoint import Checkpoint
from stc_export.exporter.scaled import ScaledCheckpoint
from stc_export.exporter.weights import WeightRecipe
from stc_export.families.base import Prompt, Read
from stc_export.pipeline.calibration_data import WORLD
from stc_export.pipeline.plan import Prepared
from stc_export.pipeline.precisions import layer_name
from stc_export.pipeline.prompts import digest_prompts, read_prompts
from stc_export.spec.calibration import FoldedScales, Rounding
from stc_export.spec.progress import Progress

#: Tokens on which errors are compared, and the most outputs of a weight, at even distances: the search rounds each
#: weight of the sample once per value of the grid.
_TOKENS, _OUTPUTS = 512, 1024


@dataclass(frozen=True)
class Folded:
    """A checkpoint as it is to be rounded.

    Attributes:
        checkpoint: The same model, perhaps of other weights.
        scales: What was folded in.
        data: Name of the data that the scales were chosen from.
        data_sha256: Digest of the prompts.
    """

    checkpoint: Checkpoint
    scales: tuple[FoldedScales, ...] = ()
    data: str = ""
    data_sha256: str = ""


def _nearest(prepared: Prepared, _data: Path | None, _progress: Progress) -> Folded:
    return Folded(prepared.checkpoint)


def _awq(prepared: Prepared, data: Path | None, progress: Progress) -> Folded:
    """Search scales layer by layer, and fold them into the checkpoint."""
    recipes = _rounded(prepared)
    rows: dict[str, NDArray[np.float32]] = {}
    columns: dict[str, NDArray[np.float32]] = {}
    folded: list[FoldedScales] = []
    prompts = read_prompts(prepared, data)
    for read, (name, recipe) in _reads(prepared, recipes, prompts, progress):
        found = _search(prepared.checkpoint, read, recipe)
        columns |= dict.fromkeys(read.group.layers, found.values)
        rows |= dict.fromkeys(read.group.before, np.reciprocal(found.values))
        folded.append(FoldedScales(name, found.alpha, found.nearest_error, found.error))
    base = prepared.checkpoint
    scaled = ScaledCheckpoint(base.directory, base.config, base.tensors, rows, columns)
    return Folded(scaled, tuple(folded), WORLD if data is None else data.name, digest_prompts(prompts))


_Fold = Callable[[Prepared, Path | None, Progress], Folded]
#: Name of a rounding -> what it makes of a checkpoint before its weights are rounded to the nearest.
ROUNDINGS: Mapping[Rounding, _Fold] = {"nearest": _nearest, "awq": _awq}


def fold_scales(prepared: Prepared, data: Path | None, progress: Progress) -> Folded:
    """Prepare a checkpoint for being rounded to the nearest.

    Args:
        prepared: The build.
        data: What scales are chosen on, see :func:`stc_export.pipeline.prompts.read_prompts`.
        progress: Receiver of progress.

    Raises:
        StcError: The checkpoint or the data cannot be used.
    """
    return ROUNDINGS[prepared.rounding](prepared, data, progress)


def _rounded(prepared: Prepared) -> Mapping[str, tuple[str, WeightRecipe]]:
    """Return canonical name of a tensor -> name and recipe of the layer that it is rounded in."""
    return {
        source: (layer_name(file, recipe), recipe)
        for file, recipes in prepared.split.weights.items()
        for recipe in recipes
        if recipe.scheme is not None
        for source in recipe.sources
    }


def _reads(
    prepared: Prepared, recipes: Mapping[str, tuple[str, WeightRecipe]], prompts: Sequence[Prompt], progress: Progress
) -> Iterator[tuple[Read, tuple[str, WeightRecipe]]]:
    """Yield what is read by each layer that is rounded and has something to fold scales into."""
    checkpoint, model = prepared.checkpoint, prepared.model
    embeds = model.embed_prompts(checkpoint, prepared.preprocessing, prompts, {}).prompts
    language, hidden = model.language(checkpoint), embeds
    with progress.stage("scales", model.dims.text.layers, "layers") as advance:
        for layer in range(model.dims.text.layers):
            ran = language.run(layer, hidden, _TOKENS)
            hidden = ran.hidden
            for read in ran.reads:
                if read.group.before and read.group.layers[0] in recipes:
                    yield read, recipes[read.group.layers[0]]
            advance(1)


def _search(checkpoint: Checkpoint, read: Read, recipe: WeightRecipe) -> Scales:
    if recipe.scheme is None:
        raise ValueError(f"{recipe.name} is not rounded")
    weights = np.concatenate([_sample(checkpoint, name) for name in read.group.layers])
    return choose_scales(read.inputs, weights, recipe.scheme, recipe.dtype)


def _sample(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    """Return rows of a weight at even distances, [at most _OUTPUTS, in]."""
    weight = checkpoint.read(name)
    rows: NDArray[np.float32] = weight[:: -(-len(weight) // _OUTPUTS)].float().numpy()
    return rows
