"""The embedding table of a bundle, of which the host reads a row for each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stc_export.spec.manifest import table_scale
from stc_runtime.bundle import Bundle
from stc_runtime.dtypes import narrowed, widened

_NAME = "embed"


class Embeddings:
    """Rows of the table; only those that are asked for are read from the mapped file.

    Args:
        bundle: A checked bundle.
        dtype: Type of activations.

    Raises:
        BundleError: The table is missing or does not lie inside its file.
    """

    def __init__(self, bundle: Bundle, dtype: DTypeLike) -> None:
        self._table, self._dtype = bundle.table(_NAME), np.dtype(dtype)
        self._scales = bundle.table(table_scale(_NAME)) if self._table.dtype == np.int8 else None

    def rows(self, tokens: Sequence[int]) -> NDArray[Any]:
        """Return the embeddings [S, D] of token ids; in int8 a row of the table has codes, and a scale beside it."""
        ids = np.array(tokens, np.int64)
        stored = np.array(self._table[ids])
        if self._scales is None:
            return stored
        scales = widened(np.array(self._scales[ids])).astype(np.float32)
        return narrowed(stored.astype(np.float32) * scales, self._dtype)
