"""What a model family provides. A family is a row of :data:`stc_export.families.FAMILIES`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stc_calib.schemes import Arithmetic
from stc_export.exporter.checkpoint import Checkpoint
from stc_export.exporter.graphs import GraphForm, SplitModel
from stc_export.exporter.parity import Arrays, ParityCase
from stc_export.exporter.preprocess import Preprocessing
from stc_export.exporter.weights import StoredTensor
from stc_export.spec.dims import ModelDims


@dataclass(frozen=True)
class LayerSample:
    """Layers that a parity check runs: all of them for small models, else a stated sample.

    Attributes:
        vision: Indices of ViT layers.
        text: Indices of decoder layers.
        outputs: Rows of the output matrix, from the first.
    """

    vision: tuple[int, ...]
    text: tuple[int, ...]
    outputs: int


#: Weight file -> name -> place.
StoredFiles = Mapping[str, Mapping[str, StoredTensor]]
#: Runs a graph of the (possibly sampled) model by its path in the bundle: feeds -> all outputs.
RunGraph = Callable[[str, Arrays], Arrays]


class FamilyModel(Protocol):
    """A checkpoint as its family understands it, from the config alone."""

    @property
    def dims(self) -> ModelDims:
        """Sizes."""
        ...

    @property
    def trained(self) -> bool:
        """False when the checkpoint says that its weights are random."""
        ...

    def split(self, form: GraphForm, preprocessing: Preprocessing) -> SplitModel:
        """Describe graphs and weights."""
        ...

    def sampled(self, sample: LayerSample) -> FamilyModel:
        """Return the same model with only the given layers, under their new numbers 0, 1, ..."""
        ...

    def sampled_weights(self, stored: StoredFiles, sample: LayerSample) -> StoredFiles:
        """Return where the weights of the sampled model lie: the same bytes under the new layer numbers."""
        ...

    def parity_cases(self, inputs: ParityInputs) -> Iterator[ParityCase]:
        """Yield cases for every graph of this model."""
        ...

    def embed_prompts(
        self,
        checkpoint: Checkpoint,
        preprocessing: Preprocessing,
        prompts: Sequence[Prompt],
        rounded: Mapping[str, Arithmetic],
    ) -> Embedded:
        """Return what the ViT makes of the frames of prompts, and what the LLM reads of each.

        Args:
            checkpoint: The weights.
            preprocessing: Of frames.
            prompts: The prompts.
            rounded: Canonical names of weights of the ViT whose layers read inputs that are rounded token by token, and
                to what.
        """
        ...

    def language(self, checkpoint: Checkpoint) -> Language:
        """Return the LLM of a checkpoint, computing in float32."""
        ...


@dataclass(frozen=True, eq=False)
class Prompt:
    """Frames and a question about them.

    Attributes:
        frames: uint8 [size, size, 3] RGB.
        before: Token ids before the frames.
        after: Token ids behind them and the newline.
    """

    frames: tuple[NDArray[np.uint8], ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Embedded:
    """Prompts as the LLM reads them.

    Attributes:
        features: What the ViT gives for each frame, [T, C].
        prompts: What the LLM reads of each prompt, [S, D].
    """

    features: tuple[NDArray[np.float32], ...]
    prompts: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class Group:
    """Linear layers that read the same, by canonical names of tensors.

    Attributes:
        layers: Their weights [out, in].
        before: Tensors of which each row, or value, makes one channel of what they read; empty where none does.
    """

    layers: tuple[str, ...]
    before: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Read:
    """What a group reads, [N, in]."""

    group: Group
    inputs: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """What the LLM makes of a prompt.

    Attributes:
        hidden: States behind the last norm [S, D].
        logits: Of the first token of the answer [V].
    """

    hidden: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ran:
    """What a layer made of prompts: its output [S, D] for each, and what its linear layers read of them together."""

    hidden: tuple[NDArray[np.float32], ...]
    reads: tuple[Read, ...]


class Language(Protocol):
    """An LLM that is run one layer at a time, and has one layer in memory at a time."""

    def run(self, layer: int, hidden: Sequence[NDArray[np.float32]], rows: int = 1) -> Ran:
        """Run a layer over whole prompts.

        Args:
            layer: Its number.
            hidden: Its input [S, D] for each prompt.
            rows: Most tokens of what linear layers read, at even distances.
        """
        ...

    def answer(self, hidden: Sequence[NDArray[np.float32]]) -> tuple[Answer, ...]:
        """Return what the output [S, D] of the last layer says, for each prompt."""
        ...


@dataclass(frozen=True)
class ParityInputs:
    """What parity cases are made from.

    Attributes:
        checkpoint: The weights.
        sample: Layers of the checkpoint that the model has.
        preprocessing: How frames are normalised.
        form: Form of the graphs.
        run: Runs a graph; a case may feed what another graph produced.
        weight: Maps a stored tensor by weight file and name; rounded weights are restored to float32.
        weight_names: Names of the stored tensors in each weight file.
    """

    checkpoint: Checkpoint
    sample: LayerSample
    preprocessing: Preprocessing
    form: GraphForm
    run: RunGraph
    weight: Callable[[str, str], NDArray[Any]]
    weight_names: Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        name: Name in manifests.
        architectures: Class names in ``config.json`` that it splits.
        canonical: Maps a tensor name of any known layout to the canonical one.
        read: Reads the config; the second argument names the checkpoint in errors.
        chat_template: Template for checkpoints that bring none.
        stop_token: Token that ends an answer if the checkpoint does not say.
    """

    name: str
    architectures: tuple[str, ...]
    canonical: Callable[[str], str]
    read: Callable[[Mapping[str, Any], str], FamilyModel]
    chat_template: str
    stop_token: str
