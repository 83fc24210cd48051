"""Results as the pipeline returns them, made by hand, and a fake pipeline that returns them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from stc_export.pipeline import types as t
from stc_export.pipeline.bench.record import BenchedBundle, Environment
from stc_export.pipeline.calibrate.types import Place, TuneRequest, TuneResult
from stc_export.pipeline.validate import types as v
from stc_export.spec.policy import Policy
from stc_export.spec.tuning import Estimate, HeldOutPolicy, TriedPolicy, TuningData, TuningMachine, TuningRecord
from stc_export.validate.meter import no_energy
from stc_export.validate.types import Interval, Work
from tests.stc_export.pipeline.small_bundle import small_manifest

if TYPE_CHECKING:
    import pytest

PLAN = t.BuildPlan(
    model="demo",
    family="llava_onevision",
    target="cpu",
    precision="fp32",
    kv="floats",
    flavour="base",
    out=Path("demo.stc"),
    parameters=1234567,
    graphs=(t.PlannedGraph("vit", "gate", "fp32", 5_000_000),),
    size=t.SizeEstimate(9_000_000, 8_000_000, 400_000, 300_000, 200_000),
    fit=t.Fit(
        "l4",
        "fp16",
        20_000_000_000,
        8_900_000,
        fits=True,
        kv_per_1000_frames_bytes=7_000_000,
        frame_tokens=58,
        stages=(t.StageBound("decode", 500_000_000, 3_000_000_000, 10.0, "memory"),),
    ),
)
BUILT = t.BuildResult(Path("my demo.stc"), small_manifest(), (t.StageTime("weights", 1.25),))
NONE = t.Latency(0.0, 0.0, 0)
RAN = t.RunResult(
    answers=(t.Answer("What?", 2.0, "A cup.", 31.5, 3),),
    frames=t.FrameCounts(10, 2, 5, 3),
    tokens=t.TokenCounts(490, 147),
    latency_ms=t.StageLatencies(t.Latency(1.5, 2.0, 10), t.Latency(8, 9, 2), NONE, NONE, NONE, t.Latency(4, 5, 3)),
    memory_bytes=t.RunMemory(250_000_000, 1_500_000, 2_500_000),
    bundle="demo.stc",
    target="cpu",
    policy=Policy(),
    trained=True,
)
BENCHED = t.BenchResult("demo.stc", "cpu", (t.BenchRow("vit 25 %", "vit full", 2.5, 3.1, 4.0, 10.0, 30),))

_TIMES = v.ValidateLatencies(t.Latency(12.5, 20.0, 34), NONE, NONE, NONE, NONE, NONE, NONE, t.Latency(3.0, 4.0, 16))
_WORK = Work(34, 34, 0, 850, 850, 306, 306)
_WORSE = v.Comparison(Interval(-0.25, -0.5, -0.125, 16), 0.125, "worse")


def scored(name: str, right: float, against: v.Comparison | None) -> v.SettingScore:
    """One setting with one group of questions."""
    overall = v.GroupScore("all", Interval(right, right - 0.25, min(right + 0.25, 1.0), 16), against)
    return v.SettingScore(
        name, Policy(), overall, (replace(overall, name="detail"),), _WORK, 1.0, 0.28, 12.5, _TIMES, 80.0, 312_000_000
    )


VALIDATED = v.ValidateResult(
    schema="stc.validate/1",
    command="stc-export validate",
    bundle=BenchedBundle(
        "ab" * 32, "demo", trained=True, precision="fp32", dims=small_manifest().dims, policy=Policy()
    ),
    target="cpu",
    task="demo",
    clips=2,
    questions=16,
    jobs=2,
    workers="local",
    settings=(scored("off", 0.75, None), scored("pruner.keep=0.3", 0.5, _WORSE)),
    energy=no_energy("there is no counter"),
    environment=Environment(
        "a cpu", 2, 1, None, 8_000_000_000, None, "Linux", "3.11", "2", "1", "0.1.0", load_before=0.5, load_after=1.5
    ),
)


def _tried(name: str, kept: int, cost: float, *, on_front: bool) -> TriedPolicy:
    return TriedPolicy(name, 3, 36, kept, cost, 10 * cost, 0.0, on_front)


def _held_out(name: str) -> HeldOutPolicy:
    return HeldOutPolicy(
        name, 108, Estimate(1.0, 0.966, 1.0), Estimate(1.0, None, None), 1.0, 0.5, 4.0, 5.0, 6.0, 0.99, 0.01
    )


TUNED = TuneResult(
    TuningRecord(
        schema="stc.tuning/1",
        command="stc-export calibrate",
        manifest_sha256="ab" * 32,
        target="cpu",
        budget="accuracy",
        value=0.99,
        met=True,
        verdict="accuracy=0.99 is met",
        chosen="b",
        policy=Policy(),
        data=TuningData("fidelity", "cd" * 32, 1.0, ("Who?",), 9, 108, 9, 108),
        tried=(
            _tried("off", 36, 1.0, on_front=False),
            _tried("paper", 30, 0.4, on_front=False),
            _tried("b", 36, 0.3, on_front=True),
            _tried("c", 24, 0.1, on_front=True),
        ),
        confirmed=(_tried("b", 36, 0.3, on_front=False),),
        held_out=(_held_out("off"), _held_out("paper"), _held_out("b")),
        machine=TuningMachine("a cpu", None, 1, "Linux", "0.1.0"),
    ),
    Place(
        Path("demo.stc/calib/policy.json"),
        Path("demo.stc/calib/tuning.json"),
        Path("demo.stc/calib/tuning.png"),
        Path("demo.stc/calib/tuning"),
    ),
    trained=True,
)


@dataclass
class FakePipeline:
    """Stands for the pipeline: keeps requests, prints noise where libraries do, and returns what it is told to."""

    requests: list[Any] = field(default_factory=list)
    plan: t.BuildPlan = PLAN
    built: t.BuildResult = BUILT
    ran: t.RunResult = RAN
    tuned: TuneResult = TUNED
    failure: BaseException | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        modules = {
            "build": SimpleNamespace(plan_build=self.plan_build, run_build=self.run_build),
            "run": SimpleNamespace(run=self.run),
            "bench.run": SimpleNamespace(bench=self.bench),
            "validate.run": SimpleNamespace(validate=self.validate),
            "calibrate.run": SimpleNamespace(tune=self.tune),
            "validate.rescore": SimpleNamespace(rescore=self.validate),
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, f"stc_export.pipeline.{name}", module)

    def plan_build(self, request: t.BuildRequest) -> t.BuildPlan:
        self._keep(request)
        return self.plan

    def run_build(self, request: t.BuildRequest, progress: Any) -> t.BuildResult:
        with progress.stage("weights", 1000, "B") as advance:
            advance(1000)
            self._keep(request)
        return self.built

    def run(self, request: t.RunRequest, progress: Any, on_piece: Any) -> t.RunResult:
        self._keep(request)
        with progress.stage("frames", 10, "frames") as advance:
            for question in request.questions:
                advance(1)
                for piece in ("A ", "cup.", "\x1b[2J"):
                    on_piece(question, 2.0 if question.at_s is None else question.at_s, piece)
        return self.ran

    def bench(self, request: t.BenchRequest, progress: Any) -> t.BenchResult:
        progress.note("measuring")
        self._keep(request)
        return BENCHED

    def validate(self, request: v.ValidateRequest, progress: Any) -> v.ValidateResult:
        progress.note("validating")
        self._keep(request)
        return VALIDATED

    def tune(self, request: TuneRequest, progress: Any) -> TuneResult:
        progress.note("tuning")
        self._keep(request)
        return self.tuned

    def _keep(self, request: Any) -> None:
        self.requests.append(request)
        sys.stdout.write("noise of a library\n")
        if self.failure is not None:
            raise self.failure
