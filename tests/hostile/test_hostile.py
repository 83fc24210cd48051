"""Bundles and checkpoints that were made to do harm are refused with one sentence, and nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bundles import made_once
from tests.hostile.attack import Attack
from tests.hostile.child import ATTACKS, Outcome
from tests.videos import write_moving_square

ROOT = Path(__file__).parents[2]
#: What a good input gives: exit codes of the commands without an attack. There is no video, and no TensorRT.
GOOD = {"inspect": 0, "run": 2, "ask": 0, "check": 0, "seal": 3, "goldens": 0, "build": 0}

#: Commands whose packages are loaded quickly. The others come with PyTorch, a compiler or a stream.
QUICK = ("inspect", "run", "goldens")
SLOW = tuple(name for name in GOOD if name not in QUICK)

Outcomes = dict[tuple[str, str], Outcome]


@dataclass(frozen=True)
class Inputs:
    """What is good."""

    bundle: Path
    checkpoint: Path


@pytest.fixture(scope="session")
def inputs(tiny_bundle: Path, tiny_checkpoint: Path) -> Inputs:
    return Inputs(tiny_bundle, tiny_checkpoint)


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> Outcomes:
    """What the quick commands made of the attacks."""
    return meet(tmp_path_factory, "hostile-quick", QUICK, inputs)


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> Outcomes:
    """What the others made of them."""
    return meet(tmp_path_factory, "hostile-slow", SLOW, inputs)


def meet(factory: pytest.TempPathFactory, name: str, commands: tuple[str, ...], inputs: Inputs) -> Outcomes:
    """Let commands meet the attacks in one child process."""

    def make(folder: Path) -> None:
        folder.mkdir()
        clip = write_moving_square(folder / "clip.mp4")
        command = (sys.executable, "-m", "tests.hostile.child", ",".join(commands))
        with (folder / "outcomes.jsonl").open("w") as lines:
            paths = (folder, inputs.bundle, inputs.checkpoint, clip)
            subprocess.run([*command, *paths], cwd=ROOT, stdout=lines, check=False)

    lines = (made_once(factory, name, make) / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()
    found = [Outcome(**json.loads(line)) for line in lines]
    return {(outcome.attack, outcome.command): outcome for outcome in found}


def meeting(commands: tuple[str, ...]) -> list[Attack]:
    """The attacks that some of these commands meet."""
    return [attack for attack in ATTACKS if set(attack.commands) & set(commands)]


def check_content(outcome: Outcome) -> None:
    """Check that a command did with a good input what it does."""
    assert outcome.code == GOOD[outcome.command], outcome.said
    assert "Traceback" not in outcome.said


def check_refused(attack: Attack, command: str, outcomes: Outcomes) -> None:
    """Check that a command said what is wrong, and wrote nothing."""
    assert (attack.name, command) in outcomes, f"{command} ended the process"
    outcome = outcomes[attack.name, command]
    assert outcome.code == attack.code, f"{command}: {outcome.said[:500]}"
    assert attack.said in outcome.said, f"{command}: {outcome.said[:500]}"
    assert not outcome.changed, command
    if attack.code == 2:
        assert outcome.said.count(" fix: ") == 1
        assert len(outcome.said) < 1500


@pytest.mark.parametrize("command", QUICK)
def test_good_bundle_is_not_refused(quick: Outcomes, command: str) -> None:
    check_content(quick["", command])


@pytest.mark.parametrize("attack", meeting(QUICK), ids=lambda attack: attack.name)
def test_attack_is_refused_in_a_sentence_and_nothing_is_written(quick: Outcomes, attack: Attack) -> None:
    for command in set(attack.commands) & set(QUICK):
        check_refused(attack, command, quick)


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_good_input_is_not_refused_by_any_command(slow: Outcomes, command: str) -> None:
    check_content(slow["", command])


@pytest.mark.slow
@pytest.mark.parametrize("attack", meeting(SLOW), ids=lambda attack: attack.name)
def test_attack_is_refused_by_every_command_that_meets_it(slow: Outcomes, attack: Attack) -> None:
    for command in set(attack.commands) & set(SLOW):
        check_refused(attack, command, slow)


def test_table_has_each_attack_once() -> None:
    assert len(ATTACKS) >= 60
    assert [name for name, count in Counter(attack.name for attack in ATTACKS).items() if count > 1] == []
