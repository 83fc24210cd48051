"""``build``: a checkpoint becomes a bundle, complete and checked, or nothing at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from stc_export import __version__
from stc_export.exporter.graphs import graph_entry
from stc_export.exporter.journal import file_of, journals
from stc_export.exporter.prompt import write_tokenizer
from stc_export.exporter.trace import trace
from stc_export.exporter.weights import WrittenFile, write_weights
from stc_export.pipeline.awq import fold_scales
from stc_export.pipeline.calibration import calibrate
from stc_export.pipeline.check import check_parity
from stc_export.pipeline.estimate import stored_files
from stc_export.pipeline.plan import Prepared, check_output, output_path, prepare
from stc_export.pipeline.rounding import Told, write_record
from stc_export.pipeline.source import find_source
from stc_export.pipeline.types import BuildPlan, BuildRequest, BuildResult, StageTime
from stc_export.spec.errors import ParityError, ResourceError
from stc_export.spec.files import new_directory
from stc_export.spec.manifest import (
    MANIFEST_NAME,
    SCHEMA,
    DType,
    FileEntry,
    GraphEntry,
    GraphParity,
    Manifest,
    ModelInfo,
    Piece,
    PromptSpec,
    SessionMemory,
    TableEntry,
    manifest_to_text,
    table_scale,
)
from stc_export.spec.progress import Progress
from stc_runtime.text import Tokenizer

T = TypeVar("T")

_TOKENIZER = "tokenizer.json"
_GRAPHS = "graphs"


def plan_build(request: BuildRequest) -> BuildPlan:
    """Return what :func:`run_build` would write and what a session of it needs; no weight is read.

    Raises:
        StcError: The request cannot be carried out.
    """
    return _checked(request).plan


def run_build(request: BuildRequest, progress: Progress) -> BuildResult:
    """Build a bundle. It appears under its name when it is complete and passed the parity check, not before.

    An interrupted or failed build leaves an existing bundle as it was and removes what it had written. One that was
    killed cannot: the next one goes on with the weights that it had written, after it has verified them.

    Raises:
        StcError: The request cannot be carried out.
        ParityError: A graph's numbers are out of tolerance.
        ResourceError: The disk is full.
    """
    prepared = _checked(request)
    out = prepared.plan.out
    progress.note(f"bundle: {out} ({prepared.precisions.text})")
    with _disk_errors(out), new_directory(out, _keep_weights) as partial:
        check_output(out, overwrite=request.overwrite)  # new_directory may have brought it back
        if journals(partial / _GRAPHS):
            progress.note("a build that was killed is continued: its weights are verified and kept")
        manifest, stages = _write(prepared, request, partial, progress)
        check_output(out, overwrite=request.overwrite)  # it may have appeared meanwhile
    return BuildResult(out, manifest, stages)


def _keep_weights(left: Path) -> bool:
    """Remove all that a killed build wrote but weight files with their journals; whether there are any."""
    known = journals(left / _GRAPHS)
    kept = {*known, *(file_of(journal) for journal in known)}
    for path in sorted(left.rglob("*"), reverse=True):
        if path not in kept and path != left / _GRAPHS:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    return bool(known)


def _checked(request: BuildRequest) -> Prepared:
    source = find_source(request.model)
    check_output(output_path(request, source), overwrite=request.overwrite)
    return prepare(request, source)


def _write(
    prepared: Prepared, request: BuildRequest, partial: Path, progress: Progress
) -> tuple[Manifest, tuple[StageTime, ...]]:
    stages: list[StageTime] = []
    (partial / _GRAPHS).mkdir(exist_ok=True)
    # First, because it can fail for reasons of the checkpoint, and the stages after it take minutes.
    write_tokenizer(prepared.checkpoint.directory, partial / _TOKENIZER)
    prompt = _tokenized(prepared.prompt, Tokenizer.open(partial / _TOKENIZER))
    folding: list[StageTime] = []
    folded = _timed(folding, "rounding", lambda: fold_scales(prepared, request.calib, progress))
    stages.extend(folding if folded.scales else [])
    prepared = dataclasses.replace(prepared, checkpoint=folded.checkpoint)
    written = _timed(stages, "weights", lambda: _write_weights(prepared, partial, progress))
    weights = tuple(FileEntry(f"{_GRAPHS}/{file.path.name}", file.size_bytes, file.sha256) for file in written)
    graphs = _timed(stages, "graphs", lambda: _write_graphs(prepared, partial, progress))
    manifest = _manifest(prepared, request, prompt, graphs)
    scales = None
    if prepared.calibration is not None:
        task = prepared.calibration
        scales = _timed(stages, "calibration", lambda: calibrate(prepared, task, manifest, partial, progress))
    told = Told(prepared.kept, folded.scales, folded.data, folded.data_sha256, scales)
    record = write_record(prepared.split.weights, written, partial, told)
    checked = _timed(stages, "parity", lambda: check_parity(prepared, graphs, scales, partial, progress))
    _refuse_failures(checked.parity)
    small = [_file_entry(partial, path) for path in (*(g.file for g in graphs), _TOKENIZER, *record, *checked.goldens)]
    files = tuple(sorted((*weights, *small), key=lambda entry: entry.path))
    manifest = dataclasses.replace(manifest, parity=checked.parity, files=files)
    for journal in journals(partial / _GRAPHS):
        journal.unlink()
    (partial / MANIFEST_NAME).write_text(manifest_to_text(manifest), encoding="utf-8")
    return manifest, tuple(stages)


def _manifest(
    prepared: Prepared, request: BuildRequest, prompt: PromptSpec, graphs: tuple[GraphEntry, ...]
) -> Manifest:
    """Return a manifest that lists no files yet, and nothing that the parity check found."""
    return Manifest(
        schema=SCHEMA,
        writer=f"stc-export {__version__}",
        target=prepared.target.name,
        flavour=prepared.form.flavour,
        precision=prepared.precisions.floats,
        model=ModelInfo(
            name=prepared.plan.model,
            family=prepared.family.name,
            architecture=prepared.checkpoint.config["architectures"][0],
            trained=prepared.model.trained,
            parameters=prepared.parameters,
        ),
        dims=prepared.model.dims,
        preprocess=prepared.preprocessing.spec,
        prompt=prompt,
        tokenizer=_TOKENIZER,
        graphs=graphs,
        tables=_tables(prepared),
        pruners=prepared.split.pruners,
        policy=request.policy,
        session=_session(prepared.plan),
        parity=(),
        files=(),
    )


def _session(plan: BuildPlan) -> SessionMemory:
    size = plan.size
    return SessionMemory(
        weights_bytes=size.weights_bytes,
        feature_cache_bytes=size.feature_cache_bytes,
        kv_bytes=size.kv_bytes,
        activations_bytes=size.activations_bytes,
        resident_bytes=plan.resident_bytes,
    )


def _tokenized(prompt: PromptSpec, tokenizer: Tokenizer) -> PromptSpec:
    """Turn the parts that never change into token ids, so that a device needs no tokenizer to start a stream."""

    def ids(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        return tuple(Piece(token=token) for token in tokenizer.encode_prompt(pieces))

    return dataclasses.replace(prompt, before_video=ids(prompt.before_video), next_turn=ids(prompt.next_turn))


def _timed(stages: list[StageTime], name: str, work: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = work()
    stages.append(StageTime(name, round(time.perf_counter() - start, 3)))
    return result


def _write_weights(prepared: Prepared, partial: Path, progress: Progress) -> tuple[WrittenFile, ...]:
    files = []
    total = sum(recipe.nbytes for recipes in prepared.split.weights.values() for recipe in recipes)
    with progress.stage("weights", total, "B") as advance:
        for file, recipes in prepared.split.weights.items():
            files.append(write_weights(prepared.checkpoint, recipes, partial / _GRAPHS / file, advance))
    return tuple(files)


def _write_graphs(prepared: Prepared, partial: Path, progress: Progress) -> tuple[GraphEntry, ...]:
    stored = stored_files(prepared.split)
    entries = []
    with progress.stage("graphs", len(prepared.split.graphs), "graphs") as advance:
        for graph in prepared.split.graphs:
            files = trace(graph, stored, partial / graph.file)
            paths = tuple(f"{_GRAPHS}/{file}" for file in files)
            entries.append(graph_entry(graph, graph.file, paths, prepared.precisions.of(graph.role)))
            advance(1)
    return tuple(entries)


def _tables(prepared: Prepared) -> tuple[TableEntry, ...]:
    places = {name: place for names in stored_files(prepared.split).values() for name, place in names.items()}
    rows = []
    for table in prepared.split.tables:
        place = places[table.stored]
        path = f"{_GRAPHS}/{place.file}"
        kind: DType = "int8" if place.scales else place.dtype
        rows.append(TableEntry(table.name, path, kind, place.shape, place.offset))
        if place.scales:
            scales = place.scales
            rows.append(TableEntry(table_scale(table.name), path, scales.dtype, scales.shape, scales.offset))
    return tuple(rows)


def _refuse_failures(parity: tuple[GraphParity, ...]) -> None:
    for case in parity:
        for row in case.outputs:
            if not row.passed:
                raise ParityError(
                    f"{case.graph} ({case.case}): {row.output} differs from {case.reference} by {row.max_rel:.2e} of "
                    f"its largest value, at most {row.tolerance:.0e} is allowed.",
                    "Nothing was written. Try --precision fp32; if that fails too, please report it.",
                )


def _file_entry(root: Path, path: str) -> FileEntry:
    data = (root / path).read_bytes()
    return FileEntry(path, len(data), hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f'The disk is full: "{out}" was not written.', "Free space, or choose another --out."
            ) from error
        raise
