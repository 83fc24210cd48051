"""Child process that lets commands meet attacks.

    python -m tests.hostile.child COMMANDS FOLDER BUNDLE CHECKPOINT CLIP

COMMANDS are names with commas between them; an attack meets those of its own that are among them. One JSON line per
attack and command goes to stdout. The process has an end of memory and of processor time, and every command an alarm
that ends it, so that whatever hangs or grows is seen as such.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stc_export.cli.main import main
from stc_export.spec.errors import StcError
from stc_runtime.goldens import Goldens
from tests.hostile.attack import Attack
from tests.hostile.checkpoints import CHECKPOINTS
from tests.hostile.graphs import GRAPHS
from tests.hostile.manifests import MANIFESTS

ATTACKS = (*MANIFESTS, *GRAPHS, *CHECKPOINTS)

#: What an attack may cost on top of what the program has after a run of each command.
_MORE_BYTES = 1 << 30
_MORE_SECONDS = 30
#: Seconds after which a command counts as hanging, however busy the machine is.
_HANGS_S = 240


@dataclass(frozen=True)
class Outcome:
    """What a command made of an attack.

    Attributes:
        attack: Its name.
        command: The command.
        code: Exit code; ``None`` for an exception that nobody caught.
        said: All that it wrote.
        changed: Whether any file in or around the input is another than before.
    """

    attack: str
    command: str
    code: int | None
    said: str
    changed: bool


@dataclass(frozen=True)
class Place:
    """Where the inputs are.

    Attributes:
        folder: For copies.
        bundle: A good one.
        checkpoint: A good one.
        clip: A video.
    """

    folder: Path
    bundle: Path
    checkpoint: Path
    clip: Path


def _goldens(path: Path) -> int:
    """What ``seal`` does with the goldens, which it comes to with a compiler only."""
    try:
        Goldens.open(path)
    except StcError as error:
        sys.stderr.write(f"error: {error.problem}\nfix: {error.fix}\n")
        return error.exit_code
    return 0


def _commands(place: Place) -> Mapping[str, Callable[[Path], int]]:
    no_video = str(place.folder / "no.mp4")
    ask = ["--ask", "What is there?", "--max-tokens", "1"]
    return {
        "inspect": lambda path: main(["inspect", str(path)]),
        "run": lambda path: main(["run", str(path), no_video, *ask]),
        "ask": lambda path: main(["run", str(path), str(place.clip), *ask]),
        "check": lambda path: main(["check", str(path)]),
        "seal": lambda path: main(["seal", str(path), "--target", "jetson-orin-nano-8gb"]),
        "goldens": _goldens,
        "build": lambda path: main(["build", str(path), "--out", str(path.parent / "out.stc"), "--dry-run"]),
    }


def _call(command: Callable[[Path], int], path: Path) -> tuple[int | None, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        signal.alarm(_HANGS_S)
        _allow(_MORE_SECONDS)
        try:
            code: int | None = command(path)
        except BaseException as error:  # a traceback, as the user would see it
            code = None
            said.write(f"{type(error).__name__}: {error}")
        finally:
            signal.alarm(0)
    return code, " ".join(said.getvalue().split())


def _allow(seconds: int) -> None:
    """Let the process have so many more seconds of processor time."""
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + _MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _snapshot(folder: Path) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of all that is in a folder; links are not followed."""
    found = []
    for root, folders, files in os.walk(folder):
        for path in (Path(root) / name for name in folders + files):
            stat = path.lstat()
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return sorted(found)


def _meet(attack: Attack, commands: Sequence[str], place: Place) -> Iterator[Outcome]:
    around = place.folder / "around"
    good = place.checkpoint if attack in CHECKPOINTS else place.bundle
    for command in (name for name in attack.commands if name in commands):
        shutil.rmtree(around, ignore_errors=True)
        around.mkdir()
        (around / "secret.bin").write_bytes(b"secret")
        path = Path(shutil.copytree(good, around / "given"))
        attack.act(path)
        before = _snapshot(around)
        code, said = _call(_commands(place)[command], path)
        yield Outcome(attack.name, command, code, said, _snapshot(around) != before)


def _warm_up(commands: Sequence[str], place: Place) -> Iterator[Outcome]:
    """Let every command meet what is good: its imports do not count as an attack's, and it has to be content."""
    for name in commands:
        good = place.checkpoint if name == "build" else place.bundle
        yield Outcome("", name, *_call(_commands(place)[name], good), changed=False)


def run(commands: Sequence[str], place: Place) -> Iterator[Outcome]:
    """Let commands meet all attacks that are meant for them."""
    yield from _warm_up(commands, place)
    _limit()
    for attack in ATTACKS:
        yield from _meet(attack, commands, place)


def _tell(outcome: Outcome) -> None:
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    names, *paths = sys.argv[1:]
    for each in run(names.split(","), Place(*map(Path, paths))):
        _tell(each)
