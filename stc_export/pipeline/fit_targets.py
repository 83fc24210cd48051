"""``targets --fit``: a model or a bundle on every target."""

from __future__ import annotations

from pathlib import Path

from stc_engines.table import Target, load_targets
from stc_export.pipeline.estimate import Stored, session_size
from stc_export.pipeline.fit import fit_target
from stc_export.pipeline.plan import prepare
from stc_export.pipeline.precisions import bundle_precisions
from stc_export.pipeline.source import find_source
from stc_export.pipeline.types import BuildRequest, Fit
from stc_export.spec.interface import session_graphs
from stc_export.spec.manifest import MANIFEST_NAME, Manifest, read_manifest


def fit_targets(what: str) -> tuple[Fit, ...]:
    """Return the fit of a bundle, in its own precision, or of a model, in each target's default one.

    Args:
        what: Path of a bundle; or a checkpoint directory, a hub id, or ``demo``. No weight is read.

    Raises:
        StcError: It is neither, or cannot be built.
    """
    if not (Path(what) / MANIFEST_NAME).is_file():
        return _fit_model(what)
    return tuple(fit_bundle(Path(what), target) for target in load_targets())


def fit_bundle(path: Path, target: Target) -> Fit:
    """Return the fit of a bundle, in its own precision, on a target.

    Raises:
        BundleError: Its manifest cannot be used.
    """
    manifest = read_manifest(path)
    dims, policy, precisions = manifest.dims, manifest.policy, bundle_precisions(manifest)
    disk = sum(entry.size_bytes for entry in manifest.files)
    stored = Stored(disk, _session_weights(manifest))
    size = session_size(stored, dims, policy, precisions, target.backend)
    return fit_target(target, dims, policy, precisions, size.session_bytes)


def _session_weights(manifest: Manifest) -> int:
    """Bytes of the weight files that a session with the bundle's policy opens."""
    used = session_graphs(manifest.policy)
    paths = {path for role, variant in used.items() for path in manifest.graph(role, variant).weights}
    return sum(entry.size_bytes for entry in manifest.files if entry.path in paths)


def _fit_model(model: str) -> tuple[Fit, ...]:
    source = find_source(model)

    def fit(target: Target) -> Fit:
        return prepare(BuildRequest(model, target=target.name), source).plan.fit

    return tuple(fit(target) for target in load_targets())
