"""Results as the pipeline returns them, made by hand, and a fake pipeline that returns them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from stc_export.pipeline import types as t
from stc_export.spec.policy import Policy
from tests.stc_export.pipeline.small_bundle import small_manifest

if TYPE_CHECKING:
    import pytest

PLAN = t.BuildPlan(
    model="demo",
    family="llava_onevision",
    target="cpu",
    precision="fp32",
    flavour="base",
    out=Path("demo.stc"),
    parameters=1234567,
    graphs=(t.PlannedGraph("vit", "gate", 5_000_000),),
    size=t.SizeEstimate(9_000_000, 8_000_000, 400_000, 300_000, 200_000),
    fit=t.Fit(
        "l4",
        "fp16",
        20_000_000_000,
        8_900_000,
        fits=True,
        kv_per_1000_frames_bytes=7_000_000,
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


@dataclass
class FakePipeline:
    """Stands for the pipeline: keeps requests, prints noise where libraries do, and returns what it is told to."""

    requests: list[Any] = field(default_factory=list)
    plan: t.BuildPlan = PLAN
    built: t.BuildResult = BUILT
    ran: t.RunResult = RAN
    failure: BaseException | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        modules = {
            "build": SimpleNamespace(plan_build=self.plan_build, run_build=self.run_build),
            "run": SimpleNamespace(run=self.run),
            "bench": SimpleNamespace(bench=self.bench),
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

    def _keep(self, request: Any) -> None:
        self.requests.append(request)
        sys.stdout.write("noise of a library\n")
        if self.failure is not None:
            raise self.failure
