"""Builds in processes of their own that are killed, starved or raced. A program, so that it forks before threads run:

    python -m tests.stc_export.pipeline.faults CHECKPOINT BUNDLE FOLDER kills 50

BUNDLE is what an undisturbed build of CHECKPOINT gives; graphs are taken from it, so that a build takes a second. It
prints counts as JSON, and stops at the first outcome that is wrong.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import pytest
import transformers.models.llava_onevision.modeling_llava_onevision
import transformers.models.qwen2.modeling_qwen2  # both take seconds: imported once, before the forks

from stc_export.cli.main import main
from stc_export.pipeline.build import run_build
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.errors import StcError
from stc_export.spec.progress import Silent
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Packages whose import is no part of what is tried here.
IMPORTED = (onnxruntime, transformers)
#: Exit code of a build that went on with what a killed one had written.
CONTINUED = 7
SEED = 0


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Place:
    """A folder in which builds write ``x.stc``, and what that is to be."""

    def __init__(self, checkpoint: Path, bundle: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.out = folder / "x.stc"
        self.expected = quick.contents(bundle)

    def build(self) -> int:
        """Build, replacing what is there, and return an exit code."""
        progress = Notes()
        try:
            run_build(BuildRequest(str(self.checkpoint), out=self.out, overwrite=self.out.exists()), progress)
        except StcError as error:
            return error.exit_code
        return CONTINUED if any("is continued" in note for note in progress.notes) else 0

    def check(self) -> None:
        """Stop unless the bundle is right and alone."""
        found = quick.beside(self.folder)
        assert found == ["x.stc"], found
        assert quick.contents(self.out) == self.expected


def started(work: Callable[[], int]) -> int:
    """Fork a process that does some work, and return its id."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Wait for a process; returns its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kills(place: Place, count: int) -> Counter[str]:
    """Kill builds at random moments; the next one is right each time, and before it nothing half-made is in place."""
    start = time.monotonic()
    assert ended(started(place.build)) == 0
    lasts = time.monotonic() - start
    place.check()
    dice, counts = random.Random(SEED), Counter[str]()
    for number in range(count):
        if number % 2:  # in an empty place, and in that of a bundle
            shutil.rmtree(place.out)
        pid = started(place.build)
        time.sleep(dice.uniform(0, 1.1 * lasts))
        os.kill(pid, signal.SIGKILL)
        counts["killed" if ended(pid) == -signal.SIGKILL else "ended before"] += 1
        assert not place.out.exists() or quick.contents(place.out) == place.expected
        code = ended(started(place.build))
        assert code in (0, CONTINUED), code
        counts["continued" if code else "begun anew"] += 1
        place.check()
        counts["right"] += 1
    return counts


def races(place: Place, count: int) -> Counter[str]:
    """Two builds into one place at once, beside what a killed one left: one is there in the end, and it is right."""
    counts = Counter[str]()
    for _ in range(count):
        killed = started(place.build)
        while not list(place.folder.glob(".x.stc.partial-*/graphs/llm.weights.journal")):
            time.sleep(0.001)
        os.kill(killed, signal.SIGKILL)
        assert ended(killed) == -signal.SIGKILL
        codes = sorted(ended(pid) for pid in [started(place.build) for _ in range(2)])
        assert set(codes) <= {0, 2, CONTINUED}, codes  # 2: the other one's bundle was there first
        assert codes.count(CONTINUED) <= 1, codes
        counts += Counter(str(code) for code in codes)
        place.check()
        shutil.rmtree(place.out)
    return counts


def starved(place: Place, count: int) -> Counter[str]:
    """Builds with more and more memory: exit code 4 with a sentence and no bundle, or done; the next one is right.

    Without any memory the files cannot be removed either; that is left to the next build, as after a kill.
    """
    counts = Counter[str]()
    for number in range(count):
        log = place.folder.parent / f"log-{number}"
        room = 1024**2 * (4 + number * 96 // count)
        code = ended(started(lambda room=room, log=log: _limited(place, room, log)))
        text = log.read_text(encoding="utf-8")
        assert code in (0, 4), (room, code, text)
        assert "Traceback" not in text, text
        assert code == 0 or ("error: " in text and "fix: " in text), text
        assert place.out.exists() == (code == 0)
        counts[f"exit code {code}"] += 1
        assert ended(started(place.build)) in (0, CONTINUED)
        place.check()
        shutil.rmtree(place.out)
    return counts


def _limited(place: Place, room: int, log: Path) -> int:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))
    return main(["build", str(place.checkpoint), "--out", str(place.out)])


MODES: Mapping[str, Callable[[Place, int], Counter[str]]] = {"kills": kills, "races": races, "starved": starved}


def run(arguments: list[str]) -> None:
    checkpoint, bundle, folder = map(Path, arguments[:3])
    with pytest.MonkeyPatch.context() as patch:
        quick.install(patch, bundle)
        counts = MODES[arguments[3]](Place(checkpoint, bundle, folder), int(arguments[4]))
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    run(sys.argv[1:])
