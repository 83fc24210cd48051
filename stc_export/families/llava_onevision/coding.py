"""How the decoder's keys and values are kept: as they are computed, or as codes of 8 bits with a scale.

*Kept* are the tensors of :data:`stc_export.spec.interface.KV_STATE` that belong to keys, or to values, of one layer.
New tokens are seen as they are kept by themselves, too, so what a token sees does not depend on the call it came in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from stc_export.spec.interface import KV_LEAST_SCALE, KV_MOST_CODE
from stc_export.spec.manifest import KVFormat

Kept = tuple[Any, ...]

#: The smallest float16. A row of 64 numbers gets a scale that is at most 4e-6 too large.
_HARDLY = 2.0**-24


class Coding(Protocol):
    """Keys or values [1, kv heads, tokens, head_dim], and what is computed with them."""

    @property
    def step(self) -> float:
        """What queries are multiplied by before :meth:`scores`."""
        ...

    def keep(self, keys: Any, values: Any) -> tuple[Kept, Kept]:
        """Return what is kept of the rows of both."""
        ...

    def rows(self, kept: Kept, like: Any) -> Any:
        """Return the rows that are kept, in the type of ``like``."""
        ...

    def scores(self, query: Any, keys: Kept) -> Any:
        """Return the products [1, kv heads, N, tokens] of queries [1, kv heads, N, head_dim] with keys."""
        ...

    def mix(self, weights: Any, values: Kept) -> Any:
        """Return sums of values [1, kv heads, N, head_dim] by weights [1, kv heads, N, tokens], for :meth:`mixed`."""
        ...

    def mixed(self, sums: Any) -> Any:
        """Return what all sums of one query together stand for."""
        ...


class Floats:
    """Keys and values as they are."""

    step = 1.0

    def keep(self, keys: Any, values: Any) -> tuple[Kept, Kept]:
        """See :class:`Coding`."""
        return (keys,), (values,)

    def rows(self, kept: Kept, like: Any) -> Any:
        """See :class:`Coding`."""
        return kept[0]

    def scores(self, query: Any, keys: Kept) -> Any:
        """See :class:`Coding`."""
        return torch.matmul(query, keys[0].transpose(2, 3))

    def mix(self, weights: Any, values: Kept) -> Any:
        """See :class:`Coding`."""
        return torch.matmul(weights, values[0])

    def mixed(self, sums: Any) -> Any:
        """See :class:`Coding`."""
        return sums


class Codes:
    """int8 codes, rounded to the nearest, and for each token and head the number that 127 stands for.

    A product has the scale of a token as a factor, so scales are applied to scores and weights: that is N numbers for a
    token in place of head_dim. Queries are divided by 127 before the product, which float16 could not hold otherwise.
    """

    step = 1 / KV_MOST_CODE

    def keep(self, keys: Any, values: Any) -> tuple[Kept, Kept]:
        """See :class:`Coding`. Both at once, since every operator takes its time, for one token more than its share."""
        rows = torch.cat([keys, values], dim=1)
        sizes = rows.abs()
        # The sum adds nothing but what is no number: ONNX Runtime's largest of some numbers passes over a NaN. And its
        # Clip, which a clamp becomes, would make infinity a number.
        largest = sizes.amax(-1, keepdim=True) + sizes.sum(-1, keepdim=True) * _HARDLY
        scale = torch.maximum(largest, torch.full_like(largest[:, :1, :1], KV_LEAST_SCALE))
        codes = torch.round(rows.float() * (KV_MOST_CODE / scale.float())).to(torch.int8)
        heads = [keys.shape[1], values.shape[1]]
        (key_codes, value_codes), (key_scale, value_scale) = codes.split(heads, dim=1), scale.split(heads, dim=1)
        return (key_codes, key_scale), (value_codes, value_scale)

    def rows(self, kept: Kept, like: Any) -> Any:
        """See :class:`Coding`."""
        codes, scale = kept
        return codes.to(like.dtype) * (scale * self.step)

    def scores(self, query: Any, keys: Kept) -> Any:
        """See :class:`Coding`."""
        codes, scale = keys
        return torch.matmul(query, codes.to(query.dtype).transpose(2, 3)) * _across(scale)

    def mix(self, weights: Any, values: Kept) -> Any:
        """See :class:`Coding`."""
        codes, scale = values
        return torch.matmul(weights * _across(scale), codes.to(weights.dtype))

    def mixed(self, sums: Any) -> Any:
        """See :class:`Coding`."""
        return sums * self.step


def _across(scale: Any) -> Any:
    """[1, kv heads, tokens, 1] -> [1, kv heads, 1, tokens]; as a change of shape, which moves nothing."""
    return scale.reshape(1, scale.shape[1], 1, -1)


CODINGS: Mapping[KVFormat, Coding] = {"floats": Floats(), "int8": Codes()}
