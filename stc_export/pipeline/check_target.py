"""``check``: the graphs of a bundle against a target, without the device."""

from __future__ import annotations

from pathlib import Path

from stc_engines.lint.finding import Finding, Setting, Version, version_text
from stc_engines.lint.rules import RULES, check_graph
from stc_engines.profiles import profiles_of
from stc_engines.table import Target, find_target
from stc_engines.trt.product import PRODUCTS
from stc_export.exporter.nodes import read_nodes
from stc_export.pipeline.fit_targets import fit_bundle
from stc_export.pipeline.types import CheckedRelease, CheckResult
from stc_export.spec.manifest import PRECISION_DTYPES, Flavour, GraphEntry, Manifest
from stc_export.spec.progress import Progress
from stc_runtime.bundle import Bundle


def check_target(path: Path, name: str | None, progress: Progress) -> CheckResult:
    """Check every graph of a bundle against a target, and the whole bundle against its memory.

    Args:
        path: Directory of the bundle.
        name: Target; ``None``: the one that it was built for.
        progress: Receiver of progress.

    Raises:
        StcError: The bundle cannot be used, or there is no such target.
    """
    bundle = Bundle.open(path)
    target = find_target(name or bundle.manifest.target)
    releases = _releases(target, bundle.manifest.flavour)
    found: dict[Finding, list[str]] = {}
    with progress.stage("graphs", len(bundle.manifest.graphs), "graphs") as advance:
        for entry in bundle.manifest.graphs:
            bundle.check_graph(entry)
            graph = read_nodes(path / entry.file, entry.file)
            for release, version in releases.items():
                setting = Setting(version, _most(entry, bundle.manifest))
                for finding in check_graph(graph, target.backend.kind, setting):
                    found.setdefault(finding, []).append(release)
            advance(1)
    whole = {finding: list(releases) for finding in _whole(path, bundle.manifest, target)}
    rows = tuple(CheckedRelease(finding, tuple(of)) for finding, of in (whole | found).items())
    return CheckResult(
        bundle=path,
        target=target.name,
        releases=tuple(releases),
        rules=len(RULES[target.backend.kind]),
        findings=rows,
        ok=not any(row.finding.level == "error" for row in rows),
    )


def _releases(target: Target, flavour: Flavour) -> dict[str, Version | None]:
    """Return names and versions of the compilers that a target is expected with.

    A target that says nothing of its software is expected with the oldest release that builds graphs of the flavour.
    """
    if target.backend.kind != "trt":
        return {target.backend.kind: None}
    named = {f"TensorRT {row.tensorrt} (JetPack {row.jetpack})": _version(row.tensorrt) for row in target.software}
    oldest = PRODUCTS["trt"].oldest[flavour]
    return dict(named) or {f"TensorRT {version_text(oldest)}": oldest}


def _version(text: str) -> Version:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _most(graph: GraphEntry, manifest: Manifest) -> dict[str, int]:
    """Return the largest value of each letter, over all profiles."""
    most: dict[str, int] = {}
    shapes = {spec.name: spec.shape for spec in graph.inputs}
    for profile in profiles_of(graph, manifest):
        for fed in profile.inputs:
            for letter, size in zip(shapes[fed.name], fed.most, strict=True):
                if isinstance(letter, str):
                    most[letter] = max(size, most.get(letter, 0))
    return most


def _precisions(manifest: Manifest, target: Target) -> list[Finding]:
    """Find precisions of graphs that a target does not compute; ``int4-128`` is int4 to it."""
    named = dict.fromkeys((manifest.precision, *(graph.precision for graph in manifest.graphs)))
    lacking = [name for name in named if name.partition("-")[0] not in target.precisions]
    fix = f"Build it with --precision {' or '.join(p for p in target.precisions if p in PRECISION_DTYPES)}."
    problems = [f"The bundle has {name}, {target.name} computes {', '.join(target.precisions)}." for name in lacking]
    return [Finding("error", "precision", "", "", "", "", problem, fix) for problem in problems]


def _whole(path: Path, manifest: Manifest, target: Target) -> list[Finding]:
    findings = _precisions(manifest, target)
    fit = fit_bundle(path, target)
    if fit.fits is False and fit.room_bytes is not None:
        problem = f"A session needs {fit.session_bytes:,} bytes, {target.name} has room for {fit.room_bytes:,}."
        fix = "Use a smaller precision, model or memory.kv_tokens (stc-export targets --fit shows where it fits)."
        findings.append(Finding("error", "memory", "", "", "", "", problem, fix))
    return findings
