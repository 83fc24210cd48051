"""Whether a compiler knows the operators of a graph, and their opset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

from stc_engines.lint.finding import Finding, Rule, Setting, Version, at_node, version_text
from stc_engines.lint.graph import Graph

#: Release of TensorRT -> newest opset that its parser reads (onnx-tensorrt, docs/operators.md of each release).
_OPSETS: tuple[tuple[Version, int], ...] = (((10, 0), 20), ((10, 9), 22), ((10, 13), 24))


@cache
def _since() -> Mapping[str, Version]:
    """Return the operators of TensorRT with the first release (10.3 or later) that has them."""
    lines = files("stc_engines.lint").joinpath("operators.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: (int(major), int(minor)) for name, version in rows for major, minor in [version.split(".")]}


def known_operators(version: Version | None = None) -> frozenset[str]:
    """Return the operators of a release of TensorRT; of all releases without one."""
    return frozenset(name for name, since in _since().items() if version is None or since <= version)


def operators(graph: Graph, setting: Setting) -> Iterator[Finding]:
    """Find operators that the compiler does not have."""
    for node in graph.nodes:
        if node.domain:
            yield at_node(
                "error",
                "operator",
                graph,
                node,
                f"{node.domain}.{node.op} is no operator of ONNX.",
                "Build the bundle for this target, or write it with operators of ONNX.",
            )
        elif node.op not in _since():
            yield at_node(
                "error", "operator", graph, node, f"TensorRT has no {node.op}.", "Write it with other operators."
            )
        elif setting.version is not None and _since()[node.op] > setting.version:
            since, here = version_text(_since()[node.op]), version_text(setting.version)
            yield at_node(
                "error",
                "operator",
                graph,
                node,
                f"{node.op} came with TensorRT {since}, this is {here}.",
                "Build the bundle in the flavour base, or update TensorRT.",
            )


def opset(graph: Graph, setting: Setting) -> Iterator[Finding]:
    """Find an opset that is too new for the compiler."""
    if setting.version is None:
        return
    newest = max((opset for since, opset in _OPSETS if since <= setting.version), default=0)
    if graph.opset > newest:
        problem = f"The graph has opset {graph.opset}, TensorRT {version_text(setting.version)} reads up to {newest}."
        fix = "Update TensorRT, or build the bundle in the flavour base and without int4."
        yield Finding("error", "opset", graph.file, "", "", "", problem, fix)


OPERATOR_RULES: tuple[Rule, ...] = (operators, opset)
