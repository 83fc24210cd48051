"""Everything about a build that can be checked before a weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from stc_engines.table import Target, find_target
from stc_export.exporter.checkpoint import Checkpoint, read_checkpoint, read_config
from stc_export.exporter.graphs import GraphForm, SplitModel
from stc_export.exporter.preprocess import Preprocessing, read_preprocessing
from stc_export.exporter.prompt import prompt_from_checkpoint
from stc_export.exporter.weights import check_recipes
from stc_export.families import find_family
from stc_export.families.base import Family, FamilyModel
from stc_export.pipeline.calibration_data import CalibrationTask, find_task
from stc_export.pipeline.estimate import estimate, planned_graphs, resident_bytes
from stc_export.pipeline.fit import fit_target
from stc_export.pipeline.precisions import Precisions, check_blocks, check_kv, keep_layers, read_head, read_precisions
from stc_export.pipeline.source import Source
from stc_export.pipeline.types import BuildPlan, BuildRequest
from stc_export.spec.calibration import Rounding
from stc_export.spec.errors import UnsupportedError, UsageError, nearest
from stc_export.spec.interface import session_graphs
from stc_export.spec.manifest import BUILD_FLAGS, Flavour, PromptSpec, build_flag
from stc_export.spec.memory import kv_slots
from stc_export.spec.policy import METRIC_NAMES, Policy


@dataclass(frozen=True)
class Prepared:
    """A checked build: all that the stages after planning need.

    ``rounding`` says how weights of few bits are rounded, ``kept`` names the layers that would be and are not.
    """

    plan: BuildPlan
    target: Target
    precisions: Precisions
    form: GraphForm
    family: Family
    checkpoint: Checkpoint
    model: FamilyModel
    preprocessing: Preprocessing
    prompt: PromptSpec
    split: SplitModel
    parameters: int
    calibration: CalibrationTask | None
    rounding: Rounding = "nearest"
    kept: tuple[str, ...] = ()


def prepare(request: BuildRequest, source: Source) -> Prepared:
    """Check a request against target, config, tensor headers and tokenizer.

    Raises:
        StcError: Whatever is wrong, before any work is done.
    """
    target = find_target(request.target or "cpu")
    precisions = read_precisions(request.precision, target)
    family = find_family(read_config(source.directory), source.name)
    checkpoint = read_checkpoint(source.directory, family.canonical)
    model = family.read(checkpoint.config, source.name)
    preprocessing = read_preprocessing(source.directory, model.dims.vision.image_size)
    calibration = find_task(request, precisions, source)
    prompt = prompt_from_checkpoint(source.directory, family.chat_template, (family.stop_token,))
    slots = kv_slots(request.policy.memory, model.dims.text.context)
    metrics = tuple(name for name in METRIC_NAMES if name in ("cosine", *request.metrics))
    form = GraphForm(
        flavour=_flavour(request.flavour, target),
        dtype=precisions.dtype,
        slots=slots,
        metrics=metrics,
        attention=request.attention,
        schemes=precisions.schemes,
        head=read_head(request.head, precisions, target),
        kv=precisions.kv,
        embed=precisions.embed,
    )
    check_kv(form.kv, form.flavour, target)
    kept = keep_layers(model.split(form, preprocessing), request.keep_precision)
    split = kept.split
    rounding = _rounding(request.rounding, split)
    for recipes in split.weights.values():
        check_recipes(checkpoint, recipes)
        check_blocks(recipes)
    _check_policy_method(request, split)
    _check_policy_graphs(request.policy, split)
    used = {name for recipes in split.weights.values() for recipe in recipes for name in recipe.sources}
    parameters = sum(math.prod(checkpoint.info(name).shape) for name in used)
    size = estimate(split, model.dims, request.policy, precisions, target.backend)
    plan = BuildPlan(
        model=source.name,
        family=family.name,
        target=target.name,
        precision=precisions.floats,
        kv=precisions.kv,
        flavour=form.flavour,
        out=output_path(request, source),
        parameters=parameters,
        graphs=planned_graphs(split, precisions),
        size=size,
        fit=fit_target(target, model.dims, request.policy, precisions, size.session_bytes),
        resident_bytes=resident_bytes(size, form.dtype) if target.backend.on_cpu else None,
    )
    return Prepared(
        plan=plan,
        target=target,
        precisions=precisions,
        form=form,
        family=family,
        checkpoint=checkpoint,
        model=model,
        preprocessing=preprocessing,
        prompt=prompt,
        split=split,
        parameters=parameters,
        rounding=rounding,
        kept=kept.names,
        calibration=calibration,
    )


def _flavour(asked: str | None, target: Target) -> Flavour:
    name = asked or target.flavour
    for flavour in get_args(Flavour):
        if flavour == name:
            return cast("Flavour", flavour)
    raise UnsupportedError(f'There are no graphs of the flavour "{name}".', nearest(name, get_args(Flavour)))


def _rounding(asked: str, split: SplitModel) -> Rounding:
    if asked != "nearest" and all(recipe.scheme is None for rows in split.weights.values() for recipe in rows):
        raise UsageError(f"--rounding is {asked}, but no weights are rounded.", "Add for example --precision int4.")
    for rounding in get_args(Rounding):
        if rounding == asked:
            return cast("Rounding", rounding)
    raise UnsupportedError(f'There is no rounding "{asked}".', nearest(asked, get_args(Rounding)))


def _check_policy_method(request: BuildRequest, split: SplitModel) -> None:
    methods = [entry.method for entry in split.pruners]
    if request.policy.pruner.method not in (*methods, *BUILD_FLAGS["pruner"]):
        raise UnsupportedError(
            f'The policy asks for the pruning method "{request.policy.pruner.method}".',
            nearest(request.policy.pruner.method, methods),
        )


def _check_policy_graphs(policy: Policy, split: SplitModel) -> None:
    built = {(graph.role, graph.variant) for graph in split.graphs}
    for role, variant in session_graphs(policy).items():
        if (role, variant) not in built:
            raise UnsupportedError(
                f'The policy needs the {role} graph "{variant}", which is built only when asked for.',
                f"Add {build_flag(role, variant)}.",
            )


def output_path(request: BuildRequest, source: Source) -> Path:
    """Return where the bundle goes: by default in this directory, under the model's name."""
    return request.out or Path(f"{source.name.rsplit('/', 1)[-1]}.stc")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Check where a bundle is to be written.

    Raises:
        UsageError: It exists and is not to be replaced, is not a bundle, or its parent is missing.
    """
    if not out.parent.is_dir():
        raise UsageError(f'The directory "{out.parent}" for the bundle is missing.', "Create it first.")
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UsageError(f'"{out}" already exists.', "Choose another --out, or replace it with --overwrite.")
    if not (out / "manifest.json").is_file():
        raise UsageError(f'"{out}" exists and is not a bundle.', "Choose another --out; only bundles are replaced.")
