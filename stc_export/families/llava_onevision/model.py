"""A LLaVA-OneVision checkpoint as a :class:`stc_export.families.base.FamilyModel`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stc_calib.schemes import Arithmetic
from stc_export.exporter.checkpoint import Checkpoint
from stc_export.exporter.graphs import GraphForm, SplitModel
from stc_export.exporter.parity import ParityCase
from stc_export.exporter.preprocess import Preprocessing
from stc_export.exporter.weights import StoredTensor
from stc_export.families.base import Embedded, LayerSample, ParityInputs, Prompt, StoredFiles
from stc_export.families.llava_onevision.calibration import Language, embed_prompts
from stc_export.families.llava_onevision.config import LlavaConfig, config_from_json
from stc_export.families.llava_onevision.parity import parity_cases
from stc_export.families.llava_onevision.split import split_model
from stc_export.families.llava_onevision.weights import HEAD, LLM, VISION
from stc_export.spec.dims import ModelDims


@dataclass(frozen=True)
class LlavaOnevision:
    """The family's view of one checkpoint."""

    config: LlavaConfig

    @property
    def dims(self) -> ModelDims:
        """Sizes."""
        return self.config.dims

    @property
    def trained(self) -> bool:
        """False when the checkpoint says that its weights are random."""
        return self.config.trained

    def split(self, form: GraphForm, preprocessing: Preprocessing) -> SplitModel:
        """Describe graphs and weights."""
        return split_model(self.config, form, (preprocessing.mean, preprocessing.std))

    def sampled(self, sample: LayerSample) -> LlavaOnevision:
        """Return the same model with only the given layers, renumbered, and outputs."""
        vision = dataclasses.replace(self.dims.vision, layers=len(sample.vision))
        text = dataclasses.replace(self.dims.text, layers=len(sample.text), vocab=sample.outputs)
        return LlavaOnevision(dataclasses.replace(self.config, dims=ModelDims(vision, text)))

    def sampled_weights(self, stored: StoredFiles, sample: LayerSample) -> StoredFiles:
        """Return where the weights of the sampled model lie."""
        layers = {VISION: sample.vision, LLM: sample.text}
        renumbered = {file: _renumbered(names, layers.get(file, ())) for file, names in stored.items()}
        return {file: _cut(names, sample.outputs) for file, names in renumbered.items()}

    def parity_cases(self, inputs: ParityInputs) -> Iterator[ParityCase]:
        """Yield cases for every graph."""
        return parity_cases(self.config, inputs)

    def embed_prompts(
        self,
        checkpoint: Checkpoint,
        preprocessing: Preprocessing,
        prompts: Sequence[Prompt],
        rounded: Mapping[str, Arithmetic],
    ) -> Embedded:
        """Return what the ViT makes of the frames of prompts, and what the LLM reads of each."""
        return embed_prompts(self.config, checkpoint, preprocessing, prompts, rounded)

    def language(self, checkpoint: Checkpoint) -> Language:
        """Return the LLM of a checkpoint, computing in float32."""
        return Language(self.config, checkpoint)


def _renumbered(names: Mapping[str, StoredTensor], layers: tuple[int, ...]) -> Mapping[str, StoredTensor]:
    new_numbers = {old: new for new, old in enumerate(layers)}
    renamed: dict[str, StoredTensor] = {}
    for name, place in names.items():
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
        if match is None:
            renamed[name] = place
        elif int(match[1]) in new_numbers:
            renamed[f"layers.{new_numbers[int(match[1])]}.{match[2]}"] = place
    return renamed


def _cut(names: Mapping[str, StoredTensor], outputs: int) -> Mapping[str, StoredTensor]:
    """Return the same places, of the output matrix only so many rows."""
    return {name: place.rows(0, outputs) if name == HEAD else place for name, place in names.items()}


def read_model(config: Mapping[str, Any], source: str) -> LlavaOnevision:
    """Read a config; ``source`` names the checkpoint in errors.

    Raises:
        CheckpointError: A value is missing or impossible.
        UnsupportedError: A part that the family does not export.
    """
    return LlavaOnevision(config_from_json(config, source))
