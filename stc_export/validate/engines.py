"""What a setting runs in, by name: the bundle, or the original model as its reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stc_engines.opening import open_backend
from stc_export.reference.attention import find_attention
from stc_export.reference.methods import check_exportable
from stc_export.spec.policy import Policy
from stc_export.validate.session import Session
from stc_export.validate.types import Engine
from stc_runtime.model import Model
from stc_runtime.session import StreamSession


@dataclass(frozen=True)
class Original:
    """The checkpoint that a bundle was built from.

    Attributes:
        checkpoint: Its directory.
        attention: How attention is computed, see :mod:`stc_export.reference.attention`.
    """

    checkpoint: Path
    attention: str


#: Starts a stream. Any number of them share what was opened.
OpenSession = Callable[[Policy], Session]
#: (directory of the bundle, original model or ``None``) -> what starts streams.
OpenEngine = Callable[[Path, Original | None], OpenSession]


def _open_bundle(bundle: Path, _original: Original | None) -> OpenSession:
    model = Model.open(bundle, open_backend(bundle, 1))

    def start(policy: Policy) -> Session:
        check_exportable(policy.pruner.method)
        return StreamSession(model, policy)

    return start


def _open_torch(bundle: Path, original: Original | None) -> OpenSession:
    from stc_export.reference.model import open_model  # torch is not everywhere that bundles are validated
    from stc_export.reference.session import TorchSession

    if original is None:
        raise ValueError("a setting runs in the original model, and there is none")
    model = open_model(bundle, original.checkpoint, find_attention(original.attention), threads=1)
    return lambda policy: TorchSession(model, policy)


ENGINES: Mapping[Engine, OpenEngine] = {"bundle": _open_bundle, "torch": _open_torch}
