"""Builds a plan in a child process, and turns its end, whatever it is, into a result or an error."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from stc_engines.trt.worker import Job
from stc_export.spec import codec, errors
from stc_export.spec.child import module_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stc_engines.trt.builder import Notify

WORKER = module_command("stc_engines.trt.worker")
#: Lines of the child's last words that an error repeats.
_LAST_WORDS = 2


def build_isolated(job: Job, notify: Notify, note: Callable[[str], None], worker: Sequence[str] = WORKER) -> None:
    """Build a plan in a child process; ``job.plan`` is there when this returns.

    Args:
        job: What to build.
        notify: Told (phase, steps done, steps) again and again.
        note: Told what is worth a line.
        worker: Command that runs the child.

    Raises:
        StcError: What the child says.
        ResourceError: The child was killed.
        EngineError: The child crashed.
    """
    # A pipe for stderr could fill up while nobody reads it.
    with (
        tempfile.TemporaryFile("w+", errors="replace") as complained,
        subprocess.Popen(  # noqa: S603 - our own module
            worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complained, text=True, errors="replace"
        ) as child,
    ):
        try:
            said = _listen(child, job, notify, note)
            child.wait()
        except BaseException:  # an interrupt, too, must not leave a compiler behind
            child.kill()
            raise
        complained.seek(0)
        complaints = complained.read()
    if said is not None:
        raise said
    if child.returncode:
        raise _end(job, child.returncode, complaints)
    if not Path(job.plan).is_file():
        raise errors.EngineError(
            f'The compiler ended without a plan for "{_name(job)}".', "Run it again; if it stays so, please report it."
        )


def _listen(
    child: subprocess.Popen[str], job: Job, notify: Notify, note: Callable[[str], None]
) -> errors.StcError | None:
    to_child, from_child = cast("TextIO", child.stdin), cast("TextIO", child.stdout)
    with contextlib.suppress(BrokenPipeError):  # it died at once; its exit code tells
        to_child.write(codec.to_json(job))
        to_child.close()
    said = None
    for line in from_child:
        message = _read(line)
        if "step" in message:
            notify(str(message["phase"]), *message["step"])
        elif "note" in message:
            note(str(message["note"]))
        elif "error" in message:
            said = getattr(errors, message["error"])(message["problem"], message["fix"])
    return said


def _read(line: str) -> dict[str, Any]:
    """Return a message of the child; a line that is none comes from a library that writes where it should not."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _end(job: Job, code: int, complaints: str) -> errors.StcError:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    last = " ".join(complaints.strip().splitlines()[-_LAST_WORDS:]) or "without a word"
    if code == -signal.SIGKILL:
        return errors.ResourceError(
            f'The build of "{_name(job)}" was killed, most likely for want of memory; it used up to {peak:.0f} MiB.',
            "Close other programs, or add swap.",
        )
    how = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return errors.EngineError(
        f'The build of "{_name(job)}" {how} ({last}).', "Run it again; if it stays so, please report it."
    )


def _name(job: Job) -> str:
    return Path(job.recipe.graph).name
