"""From a graph to a plan with TensorRT or TensorRT-RTX, in this process.

Only what exists from TensorRT 10.3 to 11.x is used. Types are those of the graph (strong typing): a creation flag asks
for it where there still is one, and no flag asks for a precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_engines.profiles import Profile
from stc_engines.trt.log import make_log
from stc_engines.trt.timing import Timings
from stc_export.spec.errors import EngineError, ResourceError

Notify = Callable[[str, int, int], None]

#: How TensorRT says that memory ran out.
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "memory allocation", "bad_alloc")
#: Other things that it is known to say, with what helps.
_KNOWN = {
    "could not find any implementation": "Mostly it had too little memory to try its kernels: close other programs, or "
    "add swap, and run it again.",
    "is not supported by this tensorrt": "Use the TensorRT of your JetPack; the general one for ARM servers has no "
    "kernels for every Jetson.",
}
#: Messages of the compiler that an error repeats.
_REPEATED = 3


@dataclass(frozen=True)
class Recipe:
    """How a graph is built.

    Attributes:
        graph: ONNX file, with its weight files where it says.
        profiles: Shapes; empty if all are static.
        optimization_level: 0 to 5: the higher, the longer the build and the faster the engine.
        workspace_bytes: Most scratch memory of a kernel; ``None``: no limit.
        tactic_dram_bytes: Most memory of the build itself, which is also the system's where the two are one;
            ``None``: TensorRT's default.
    """

    graph: str
    profiles: tuple[Profile, ...]
    optimization_level: int = 3
    workspace_bytes: int | None = None
    tactic_dram_bytes: int | None = None


def build_plan(trt: Any, recipe: Recipe, notify: Notify, timings: Timings) -> bytes:
    """Build a plan.

    Args:
        trt: The module ``tensorrt`` or ``tensorrt_rtx``.
        recipe: What to build.
        notify: Told (phase, steps done, steps) again and again.
        timings: Where the times of kernels come from, and where new ones go.

    Raises:
        EngineError: The compiler refuses the graph; the message repeats its reasons.
        ResourceError: Memory did not suffice.
    """
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, log, recipe)
    config = builder.create_builder_config()
    for profile in recipe.profiles:
        config.add_optimization_profile(_profile(builder, profile))
    config.builder_optimization_level = recipe.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default, and float32 then has ten bits
    _limit(trt, config, recipe)
    config.progress_monitor = _make_monitor(trt, notify)
    cache = timings.attach(config)
    log.errors.clear()  # why a cache was not taken is no reason for a graph to be refused
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failure(recipe, log.errors)
    timings.keep(config, cache)
    return bytes(plan)


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _parse(trt: Any, network: Any, log: Any, recipe: Recipe) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(recipe.graph):
        return
    found = [parser.get_error(number) for number in range(parser.num_errors)]
    raise _failure(recipe, [f"{error.node_name()} ({error.node_operator()}): {error.desc()}" for error in found])


def _profile(builder: Any, profile: Profile) -> Any:
    made = builder.create_optimization_profile()
    for shapes in profile.inputs:
        made.set_shape(shapes.name, shapes.least, shapes.usual, shapes.most)
    return made


def _limit(trt: Any, config: Any, recipe: Recipe) -> None:
    pools = trt.MemoryPoolType
    for pool, size in ((pools.WORKSPACE, recipe.workspace_bytes), (pools.TACTIC_DRAM, recipe.tactic_dram_bytes)):
        if size is not None:
            config.set_memory_pool_limit(pool, size)


def _failure(recipe: Recipe, reasons: list[str]) -> EngineError | ResourceError:
    text = "; ".join(" ".join(reason.split()) for reason in reasons[-_REPEATED:]) or "it gave no reason"
    name = Path(recipe.graph).name
    if any(mark in text.lower() for mark in _OUT_OF_MEMORY):
        return ResourceError(
            f'Memory did not suffice to build "{name}" ({text}).',
            "Close other programs, or add swap.",
        )
    report = "Please report it with this message and the version of TensorRT."
    fix = next((fix for mark, fix in _KNOWN.items() if mark in text.lower()), report)
    return EngineError(f'The compiler refuses "{name}": {text.removesuffix(".")}.', fix)


def _make_monitor(trt: Any, notify: Notify) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            notify(phase, step + 1, self._steps[phase])
            return True

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

    return Monitor()
