"""Child process that builds one plan: ``python -m stc_engines.trt.worker`` with a :class:`Job` as JSON on stdin.

A compiler that crashes, or that the system stops for want of memory, takes only this process with it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stc_engines.trt.builder import Recipe, build_plan
from stc_engines.trt.product import ProductName, load_product
from stc_engines.trt.timing import TimingFile, Untimed
from stc_export.spec import codec
from stc_export.spec.errors import ResourceError, StcError
from stc_export.spec.files import write_file

if TYPE_CHECKING:
    from typing import TextIO


@dataclass(frozen=True)
class Job:
    """What to build with what, and where the results go.

    Attributes:
        product: Which compiler.
        recipe: What it is told.
        plan: File for the plan.
        timing: File of the timing cache; ``None``: none is used.
    """

    product: ProductName
    recipe: Recipe
    plan: str
    timing: str | None = None


def work(job: Job, out: TextIO) -> int:
    """Build, and write one line of JSON to ``out`` for each step, note and error; return the exit code."""

    def tell(line: dict[str, object]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    try:
        trt = load_product(job.product)
        timings = TimingFile(Path(job.timing), lambda text: tell({"note": text})) if job.timing else Untimed()
        plan = build_plan(
            trt, job.recipe, lambda phase, done, steps: tell({"phase": phase, "step": [done, steps]}), timings
        )
        _write(plan, Path(job.plan))
    except StcError as error:
        tell({"error": type(error).__name__, "problem": error.problem, "fix": error.fix})
        return error.exit_code
    return 0


def _write(plan: bytes, path: Path) -> None:
    try:
        write_file(plan, path)
    except OSError as error:
        raise ResourceError(
            f'The plan of {len(plan):,} bytes cannot be written to "{path.parent}" ({error.strerror}).',
            "Free space, or see that the bundle can be written to.",
        ) from error


if __name__ == "__main__":
    sys.exit(work(codec.from_json(Job, sys.stdin.read()), sys.stdout))
