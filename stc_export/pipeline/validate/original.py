"""The original model of ``validate --reference torch``: where it is, and what identifies it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stc_export.pipeline.source import DEMO, Source, find_source
from stc_export.pipeline.validate.types import ValidateRequest
from stc_export.reference.attention import find_attention
from stc_export.spec.errors import MissingDependencyError, UnsupportedError, UsageError, nearest
from stc_export.spec.files import file_digest
from stc_export.spec.manifest import Manifest
from stc_export.validate.engines import Original
from stc_export.validate.folder import OriginalPlan

_PACKAGES = ("torch", "transformers", "PIL")
#: ``--reference`` -> ``--attention`` when it is not given.
_REFERENCES: Mapping[str, str] = {"torch": "eager"}


@dataclass(frozen=True)
class Found:
    """The original model, as processes open it and as the folder records it."""

    original: Original
    plan: OriginalPlan


def find_original(request: ValidateRequest, manifest: Manifest) -> Found | None:
    """Find the checkpoint of a bundle; ``None`` when no reference was asked for.

    Args:
        request: What was asked for.
        manifest: Of the bundle.

    Raises:
        UsageError: A flag of the reference without it, or a bundle that does not name where its checkpoint is.
        UnsupportedError: There is no such reference or attention.
        CheckpointError: There is no such checkpoint.
        MissingDependencyError: PyTorch, transformers or the attention is not installed.
    """
    if request.reference is None:
        _check_unused(request)
        return None
    if request.reference not in _REFERENCES:
        raise UnsupportedError(f'--reference is "{request.reference}".', nearest(request.reference, _REFERENCES))
    form = find_attention(request.attention or _REFERENCES[request.reference])
    _check_packages()
    source = _source(request, manifest)
    original = Original(source.directory.absolute(), form.name)
    versions = (importlib.metadata.version(name) for name in ("torch", "transformers"))
    return Found(original, OriginalPlan(source.name, _digest(source.directory), form.name, *versions))


def _check_unused(request: ValidateRequest) -> None:
    for flag, value in (("--model", request.model), ("--attention", request.attention)):
        if value is not None:
            raise UsageError(f'{flag} is "{value}", but nothing runs in the original model.', "Add --reference torch.")


def _check_packages() -> None:
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f'--reference torch needs the Python package "{package}".', 'Run pip install "stc-export[export]".'
            )


def _source(request: ValidateRequest, manifest: Manifest) -> Source:
    name = manifest.model.name
    if request.model is None and name != DEMO:
        raise UsageError(
            f'The bundle was built from "{name}", and a bundle does not hold its checkpoint.',
            "Give the checkpoint with --model.",
        )
    return find_source(request.model or name)


def _digest(directory: Path) -> str:
    """Digest of the digests of config and weights, in the order of their names."""
    files = sorted([directory / "config.json", *directory.glob("*.safetensors")])
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.name} {file_digest(file)}\n".encode())
    return digest.hexdigest()
