"""Errors as values; the tree and its messages in the sources are checked in tests/hygiene/test_errors.py."""

from __future__ import annotations

import pickle

import pytest

from stc_export.spec import errors
from stc_export.spec.errors import StcError, nearest

#: Class, exit code, and the built-in class that code without knowledge of ours may catch.
TREE = (
    (errors.UsageError, 2, ValueError),
    (errors.UnsupportedError, 2, LookupError),
    (errors.PolicyError, 2, ValueError),
    (errors.CheckpointError, 2, OSError),
    (errors.BundleError, 2, OSError),
    (errors.VideoError, 2, OSError),
    (errors.FrameError, 2, ValueError),
    (errors.QuestionError, 2, ValueError),
    (errors.SessionStateError, 2, RuntimeError),
    (errors.ParityError, 1, RuntimeError),
    (errors.EngineError, 1, RuntimeError),
    (errors.MissingDependencyError, 3, ImportError),
    (errors.DeviceError, 3, RuntimeError),
    (errors.ResourceError, 4, MemoryError),
)


@pytest.mark.parametrize(("error", "code", "builtin"), TREE)
def test_error_class_has_its_exit_code_and_builtin_base(
    error: type[StcError], code: int, builtin: type[Exception]
) -> None:
    assert error.exit_code == code
    with pytest.raises(builtin):
        raise error("It is wrong.", "Do this.")


@pytest.mark.parametrize("error", [row[0] for row in TREE])
def test_error_sent_to_another_process_stays_whole(error: type[StcError]) -> None:
    copy = pickle.loads(pickle.dumps(error("It is wrong.", "Do this.")))
    assert type(copy) is error
    assert (copy.problem, copy.fix, str(copy)) == ("It is wrong.", "Do this.", "It is wrong. Do this.")


def test_os_error_of_ours_has_no_errno_so_that_a_full_disk_is_told_apart() -> None:
    assert errors.CheckpointError("It is wrong.", "Do this.").errno is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fp61", 'Did you mean "fp16"? Known: fp32, fp16.'),
        ("int4", "Known: fp32, fp16."),
        ("", "Known: fp32, fp16."),
        ("x" * 1_000_000, "Known: fp32, fp16."),
    ],
)
def test_nearest_with_two_choices_names_a_close_one_only(name: str, text: str) -> None:
    assert nearest(name, ["fp32", "fp16"]) == text


def test_nearest_without_choices_says_none() -> None:
    assert nearest("x", []) == "Known: none."
