"""How the original model computes attention: what ``--attention`` takes. Standard library only."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stc_export.spec.errors import MissingDependencyError, UnsupportedError, nearest

Attention = Literal["eager", "sdpa", "flash_attention_2"]


@dataclass(frozen=True)
class AttentionForm:
    """One implementation.

    Attributes:
        name: Its name in transformers.
        dtype: Type of weights and activations that it is run in, as torch names it.
        device: Where it runs; ``None``: on a GPU if there is one.
        package: Python package that it needs beside torch, as it is imported; ``None``: none.
        masked: Whether a causal pass needs an explicit mask.
        gaps: Whether positions may have gaps.
        bias: Whether something can be added to the scores.
    """

    name: Attention
    dtype: str = "float32"
    device: str | None = None
    package: str | None = None
    masked: bool = False
    gaps: bool = True
    bias: bool = True


#: Flash attention has no float32 kernel and no CPU one, and transformers takes a gap in the positions for the start of
#: another sequence.
ATTENTIONS: Mapping[str, AttentionForm] = {
    form.name: form
    for form in (
        AttentionForm("eager", masked=True),
        AttentionForm("sdpa"),
        AttentionForm(
            "flash_attention_2", dtype="bfloat16", device="cuda", package="flash_attn", gaps=False, bias=False
        ),
    )
}


def find_attention(name: str) -> AttentionForm:
    """Return an implementation that is installed.

    Raises:
        UnsupportedError: There is none of this name.
        MissingDependencyError: It needs a package that is not installed.
    """
    if name not in ATTENTIONS:
        raise UnsupportedError(f'--attention is "{name}".', nearest(name, ATTENTIONS))
    form = ATTENTIONS[name]
    if form.package and importlib.util.find_spec(form.package) is None:
        raise MissingDependencyError(
            f'--attention {name} needs the Python package "{form.package}", which is not installed.',
            "Install it, or choose --attention sdpa.",
        )
    return form
