"""What a model family provides. A family is a row of :data:`stc_export.families.FAMILIES`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

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
