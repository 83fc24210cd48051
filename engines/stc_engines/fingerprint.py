"""What the engines of a bundle would be bound to on this machine."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stc_engines.profiles import profiles_of
from stc_export.spec import codec
from stc_export.spec.engines import Fingerprint, GraphPrint

if TYPE_CHECKING:
    from stc_engines.detect import Gpu
    from stc_engines.trt.product import ProductName
    from stc_export.spec.manifest import GraphEntry, Manifest


def fingerprint_of(
    manifest: Manifest, product: ProductName, version: str, gpu: Gpu | None, l4t: str | None
) -> Fingerprint:
    """Return the fingerprint of a bundle's engines.

    Args:
        manifest: Of the bundle.
        product: The compiler.
        version: Its version.
        gpu: The GPU that the engines are for; ``None`` if the product does not bind them to one.
        l4t: Release of Jetson Linux, if the engines are bound to it.

    Raises:
        StcError: The policy's memory does not fit the model.
    """
    return Fingerprint(
        product=product,
        version=version,
        device=gpu.name if gpu else None,
        sm=gpu.sm if gpu else None,
        l4t=l4t,
        graphs=tuple(_print(graph, manifest) for graph in manifest.graphs),
    )


def _print(graph: GraphEntry, manifest: Manifest) -> GraphPrint:
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    content = "\n".join(f"{path} {digests[path]}" for path in (graph.file, *graph.weights))
    shapes = "".join(codec.to_json(profile) for profile in profiles_of(graph, manifest))
    return GraphPrint(graph.file, _sha256(content), _sha256(shapes))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
