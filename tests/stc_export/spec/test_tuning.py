"""The evidence of a tuned policy: it is read strictly, whatever a bundle of others holds in its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.spec import codec
from stc_export.spec.errors import BundleError, PolicyError
from stc_export.spec.manifest import MANIFEST_NAME
from stc_export.spec.policy import Policy, PrunerPolicy
from stc_export.spec.tuning import (
    POLICY_NAME,
    RECORD_NAME,
    SCHEMA,
    Estimate,
    HeldOutPolicy,
    TriedPolicy,
    TuningData,
    TuningMachine,
    TuningRecord,
    manifest_digest,
    read_tuning,
    tuned_policy,
)

POLICY = Policy(pruner=PrunerPolicy(keep=0.5))
HELD_OUT = HeldOutPolicy(
    "a", 100, Estimate(1.0, 0.9, 1.0), Estimate(1.0, None, None), 1.0, 0.5, 1.0, 2.0, 3.0, 0.9, 0.1
)
RECORD = TuningRecord(
    schema=SCHEMA,
    command="stc-export calibrate",
    manifest_sha256="",
    target="cpu",
    budget="accuracy",
    value=0.99,
    met=True,
    verdict="met",
    chosen="a",
    policy=POLICY,
    data=TuningData("fidelity", "", 1.0, ("Who?",), 9, 108, 9, 108),
    tried=(TriedPolicy("a", 3, 36, 36, 0.5, 2.0, 0.1, on_front=True),),
    confirmed=(),
    held_out=(HELD_OUT,),
    machine=TuningMachine("a cpu", None, 1, "Linux", "0.1.0"),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Enough of a bundle: a manifest that nobody reads, a policy and its evidence."""
    (tmp_path / "calib").mkdir()
    (tmp_path / MANIFEST_NAME).write_text("{}")
    write(tmp_path, replace(RECORD, manifest_sha256=manifest_digest(tmp_path)))
    return tmp_path


def write(bundle: Path, record: TuningRecord) -> None:
    (bundle / RECORD_NAME).write_text(codec.to_json(record))
    (bundle / POLICY_NAME).write_text(codec.to_json(record.policy))


def test_a_record_is_read_as_it_was_written(bundle: Path) -> None:
    assert read_tuning(bundle) == replace(RECORD, manifest_sha256=manifest_digest(bundle))
    assert tuned_policy(bundle) == POLICY


def test_a_bundle_without_one_says_how_to_get_it(bundle: Path, tiny_bundle: Path) -> None:
    assert read_tuning(tiny_bundle) is None
    with pytest.raises(PolicyError, match="holds no tuned policy") as caught:
        tuned_policy(tiny_bundle)
    assert f"stc-export calibrate {tiny_bundle}" in caught.value.fix
    with pytest.raises(BundleError):
        tuned_policy(bundle / "nothing")


CHANGES: dict[str, Callable[[Path], object]] = {
    "another manifest": lambda bundle: (bundle / MANIFEST_NAME).write_text("{ }"),
    "no manifest": lambda bundle: (bundle / MANIFEST_NAME).unlink(),
    "no policy": lambda bundle: (bundle / POLICY_NAME).unlink(),
    "another policy": lambda bundle: (bundle / POLICY_NAME).write_text("{}"),
    "a policy that is none": lambda bundle: (bundle / POLICY_NAME).write_text("keep: 0.5"),
    "a directory for a policy": lambda bundle: ((bundle / POLICY_NAME).unlink(), (bundle / POLICY_NAME).mkdir()),
    "no text": lambda bundle: (bundle / RECORD_NAME).write_bytes(b"\xff\xfe"),
    "another schema": lambda bundle: write(bundle, replace(RECORD, schema="stc.tuning/2")),
    "an empty record": lambda bundle: (bundle / RECORD_NAME).write_text(""),
    "a directory for a record": lambda bundle: ((bundle / RECORD_NAME).unlink(), (bundle / RECORD_NAME).mkdir()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_is_not_as_it_was_tuned_is_refused(bundle: Path, change: Callable[[Path], object]) -> None:
    change(bundle)
    with pytest.raises(PolicyError) as caught:
        tuned_policy(bundle)
    assert caught.value.fix


@given(st.data())
def test_a_damaged_record_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    plain = json.loads(codec.to_json(RECORD))
    key = data.draw(st.sampled_from(sorted(plain)))
    values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
    plain[key] = data.draw(values | st.dictionaries(st.text(max_size=5), st.integers(), max_size=2))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "calib").mkdir()
    (folder / RECORD_NAME).write_text(json.dumps(plain))
    try:
        record = read_tuning(folder)
    except PolicyError:
        return
    assert codec.from_json(TuningRecord, codec.to_json(record)) == record
