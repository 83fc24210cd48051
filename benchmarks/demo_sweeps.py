"""Every compression method on the demo world's frozen test set; writes benchmarks/results/demo-NAME.json.

    python benchmarks/demo_sweeps.py [NAME ...] [--limit CLIPS] [--jobs N] [--work DIR]

Each sweep is a run of `stc-export validate` on the demo model, whose folder stays in the work directory: a run that was
stopped goes on where it was. The results have, per setting, accuracy with its interval, the paired difference to no
compression, cost, times, and the letter of every single answer. docs/results.md says what they mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stc_export.cli.progress import make_progress
from stc_export.pipeline.build import run_build
from stc_export.pipeline.types import BuildRequest
from stc_export.pipeline.validate.run import validate
from stc_export.pipeline.validate.table import points_text, share_text
from stc_export.pipeline.validate.types import SettingScore, ValidateRequest, ValidateResult
from stc_export.spec.files import write_file
from stc_export.spec.policy import CacherPolicy, GatePolicy, Policy, PrunerPolicy, named_policies
from stc_export.validate.folder import RESULTS as ROWS
from stc_export.validate.rows import SettingClip, read_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / ".cache" / "demo_sweeps"
SCHEMA = "stc.demo-sweep/1"

_OFF = named_policies()["off"]
#: Every frame is encoded fully, so that only the pruner acts.
_DENSE = Policy(gate=GatePolicy(mode="off"))
#: Nothing is pruned, so that only the cacher acts; selection and update as published.
_CACHED = Policy(
    gate=GatePolicy(mode="paper"), cacher=CacherPolicy(selection="per_layer", update="reference"), pruner=_OFF.pruner
)


@dataclass(frozen=True)
class Sweep:
    """One table of the results.

    Attributes:
        about: What it compares.
        base: Policy whose other keys stay.
        axes: What varies, as `--sweep` takes it.
        reference: `torch`, where methods run in the original model only; the others run in both.
        beside: Names of other bundles that every setting runs in.
    """

    about: str
    base: Policy
    axes: tuple[str, ...]
    reference: str | None = None
    beside: tuple[str, ...] = ()


#: The bundle of all sweeps, and the model in few bits.
_WHOLE = BuildRequest("demo", "cpu", metrics=("l1", "l2", "dot"), attention=True)
FEW_BITS: Mapping[str, BuildRequest] = {
    "vit-int8": BuildRequest("demo", "cpu", precision="vit=int8"),
    "int4": BuildRequest("demo", "cpu", precision="int4"),
    "int4-head": BuildRequest("demo", "cpu", precision="int4", head="int4"),
    "int4-awq": BuildRequest("demo", "cpu", precision="int4", rounding="awq"),
    "kv-int8": BuildRequest("demo", "cpu", precision="kv=int8"),
    "int4-head-kv-int8": BuildRequest("demo", "cpu", precision="int4,kv=int8", head="int4"),
    "int4-head-embed-int8": BuildRequest("demo", "cpu", precision="int4,embed=int8", head="int4"),
}
#: By the name of the file. Each answers one question of docs/results.md.
SWEEPS: Mapping[str, Sweep] = {
    "methods": Sweep(
        "pruning methods with the same count in every frame, every frame encoded fully",
        _DENSE,
        (
            "pruner.method=stc_dual_anchor,stc_gaussian,vidcom2,vcast,evs,random,stride",
            "pruner.keep=0.5,0.3,0.25,0.15",
        ),
    ),
    "visionzip": Sweep(
        "attention in the ViT in place of the content, every frame encoded fully",
        _DENSE,
        ("pruner.method=visionzip", "pruner.keep=0.5,0.3,0.25,0.15"),
    ),
    "cacher": Sweep(
        "the published cacher, nothing pruned",
        _CACHED,
        ("cacher.interval=2,4", "cacher.update_ratio=0.1,0.25,0.5"),
    ),
    "selections": Sweep(
        "who selects and what the cache takes over, one full frame of four, nothing pruned",
        replace(_CACHED, cacher=CacherPolicy(interval=4, update_ratio=0.1)),
        ("cacher.selection=gate,shared,per_layer", "cacher.update=reference,rolling"),
    ),
    "metrics": Sweep(
        "how tokens are compared with the cache, one full frame of four, nothing pruned",
        replace(_CACHED, cacher=CacherPolicy(selection="gate", interval=4)),
        ("cacher.metric=cosine,l1,l2,dot", "cacher.update_ratio=0.1,0.25"),
    ),
    "budgets": Sweep(
        "counts that follow the content, every frame encoded fully",
        replace(_DENSE, pruner=PrunerPolicy(method="evs")),
        ("pruner.budget=fixed,vidcom2,evs,dycoke", "pruner.keep=0.3"),
    ),
    "dtd": Sweep(
        "the count of DTD by its threshold, every frame encoded fully",
        replace(_DENSE, pruner=PrunerPolicy(method="evs", budget="dtd")),
        ("pruner.threshold=0.5,0.8,0.9,0.95",),
    ),
    "original": Sweep(
        "methods of the original model only, every frame encoded fully",
        _DENSE,
        ("pruner.method=stc_dual_anchor,fastv,pdrop,sparsevlm,vidcom2_clip,evs_clip", "pruner.keep=0.5,0.3"),
        "torch",
    ),
    "tome": Sweep(
        "tokens merged in the ViT, every frame encoded fully",
        _DENSE,
        ("pruner.method=tome", "pruner.keep=0.8,0.6"),
        "torch",
    ),
    "carry": Sweep(
        "what the cache carries over, and how many frames are full",
        named_policies()["adaptive"],
        ("cacher.gain=1,0.65", "cacher.drift=0,0.4", "gate.max_interval=4,7"),
    ),
    "precisions": Sweep(
        "the model in few bits, without compression and with the default policy",
        named_policies()["adaptive"],
        (),
        beside=("vit-int8", "int4", "int4-head", "int4-awq"),
    ),
    "kv": Sweep(
        "keys and values in 8 bits, without compression and with the default policy",
        named_policies()["adaptive"],
        (),
        beside=("kv-int8", "int4-head-kv-int8"),
    ),
    "embed": Sweep(
        "the embedding table in 8 bits, without compression and with the default policy",
        named_policies()["adaptive"],
        (),
        beside=("int4-head", "int4-head-embed-int8"),
    ),
    "positions": Sweep(
        "positions of kept tokens, every frame encoded fully",
        _DENSE,
        ("memory.positions=contiguous,original", "pruner.keep=0.3,0.15"),
    ),
}


def main() -> None:
    """Run the sweeps that are named, or all of them."""
    options = _options()
    if unknown := [name for name in options.names if name not in SWEEPS]:
        sys.exit(f"There is no sweep {unknown[0]}; there are {', '.join(SWEEPS)}.")
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.names or SWEEPS:
        result, clips = _run(SWEEPS[name], options.work, options.work / name, options.limit, options.jobs)
        document = _document(SWEEPS[name], result, clips)
        write_file((json.dumps(document, indent=1) + "\n").encode(), options.results / f"demo-{name}.json")
        print(table(SWEEPS[name].about, result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SWEEPS)}")
    parser.add_argument("--limit", type=int, default=None, metavar="CLIPS", help="only the first clips")
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help="processes at a time; one per core")
    parser.add_argument("--work", type=Path, default=WORK, metavar="DIR", help="where bundle and folders are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    return parser.parse_args()


def _built(out: Path, request: BuildRequest) -> Path:
    """Return a bundle, built if it is not there yet."""
    if not out.exists():
        run_build(replace(request, out=out), make_progress())
    return out


def _run(
    sweep: Sweep, work: Path, folder: Path, limit: int | None, jobs: int | None
) -> tuple[ValidateResult, Sequence[SettingClip]]:
    request = ValidateRequest(
        _built(work / "demo.stc", _WHOLE),
        "demo",
        folder,
        sweep.base,
        sweep.axes,
        limit=limit,
        jobs=jobs,
        reference=sweep.reference,
        beside=tuple(_built(work / f"{name}.stc", FEW_BITS[name]) for name in sweep.beside),
    )
    result = validate(request, make_progress())
    return result, read_rows((folder / ROWS).read_bytes()).clips


def _document(sweep: Sweep, result: ValidateResult, clips: Sequence[SettingClip]) -> dict[str, Any]:
    """Return what is committed: all that the tables need, and every answer, in the order of clips and questions."""
    given = {row.name: _answers(clips, row.name) for row in result.settings}
    return {
        "schema": SCHEMA,
        "about": sweep.about,
        "command": result.command,
        "bundle": result.bundle.manifest_sha256,
        "clips": result.clips,
        "questions": result.questions,
        "jobs": result.jobs,
        "environment": asdict(result.environment),
        "settings": [_setting(row) | {"answers": given[row.name]} for row in result.settings],
        "bundles": [asdict(one) for one in result.bundles],
        "changes": [asdict(one) for one in result.changes],
    }


def _answers(clips: Sequence[SettingClip], setting: str) -> str:
    own = sorted((one.outcome for one in clips if one.setting == setting), key=lambda outcome: outcome.clip)
    return "".join(answer.given[:1] or "-" for outcome in own for answer in outcome.answers)


def _setting(row: SettingScore) -> dict[str, Any]:
    against = row.overall.against_off
    return {
        "name": row.name,
        "right": asdict(row.overall.accuracy),
        "against_off": None if against is None else asdict(against),
        "groups": {group.name: asdict(group.accuracy) for group in row.groups},
        "computed": row.computed,
        "kept": row.kept,
        "frame_mean_ms": row.frame_mean_ms,
        "latency_ms": asdict(row.latency_ms),
    }


def table(about: str, result: ValidateResult) -> str:
    """Return the results as a Markdown table."""
    lines = [
        f"{about}: {result.questions:,} questions about {result.clips} clips\n",
        "| setting | right | against off, points | ViT tokens computed | visual tokens kept |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row) for row in result.settings])


def _line(row: SettingScore) -> str:
    against = row.overall.against_off
    points = "" if against is None else points_text(against.difference)
    return f"| {row.name} | {share_text(row.overall.accuracy)} | {points} | {row.computed:.0%} | {row.kept:.0%} |"


if __name__ == "__main__":
    main()
