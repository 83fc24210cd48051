"""Bundles and checkpoints that were made to do harm are refused with one sentence, and nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.bundles import made_once
from tests.hostile.attack import Attack
from tests.hostile.child import ATTACKS, Outcome
from tests.videos import write_moving_square

ROOT = Path(__file__).parents[2]
#: What a good input gives: exit codes of the commands without an attack. There is no video, and no TensorRT.
GOOD = {"inspect": 0, "run": 2, "ask": 0, "check": 0, "seal": 3, "goldens": 0, "build": 0}

Outcomes = dict[tuple[str, str], Outcome]


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, tiny_checkpoint: Path) -> Outcomes:
    """What each command made of each attack, from one child process for all."""

    def make(folder: Path) -> None:
        folder.mkdir()
        clip = write_moving_square(folder / "clip.mp4")
        command = (sys.executable, "-m", "tests.hostile.child")
        with (folder / "outcomes.jsonl").open("w") as lines:
            subprocess.run([*command, folder, tiny_bundle, tiny_checkpoint, clip], cwd=ROOT, stdout=lines, check=False)

    lines = (made_once(tmp_path_factory, "hostile", make) / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()
    found = [Outcome(**json.loads(line)) for line in lines]
    return {(outcome.attack, outcome.command): outcome for outcome in found}


@pytest.mark.parametrize("command", GOOD)
def test_good_input_is_not_refused(outcomes: Outcomes, command: str) -> None:
    outcome = outcomes["", command]
    assert outcome.code == GOOD[command], outcome.said
    assert "Traceback" not in outcome.said


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_refused_in_a_sentence_and_nothing_is_written(outcomes: Outcomes, attack: Attack) -> None:
    for command in attack.commands:
        assert (attack.name, command) in outcomes, f"{command} ended the process"
        outcome = outcomes[attack.name, command]
        assert outcome.code == attack.code, f"{command}: {outcome.said[:500]}"
        assert attack.said in outcome.said, f"{command}: {outcome.said[:500]}"
        assert not outcome.changed, command
        if attack.code == 2:
            assert outcome.said.count(" fix: ") == 1
            assert len(outcome.said) < 1500


def test_table_has_each_attack_once() -> None:
    assert len(ATTACKS) >= 60
    assert [name for name, count in Counter(attack.name for attack in ATTACKS).items() if count > 1] == []
