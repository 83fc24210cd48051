"""Flags that several commands share, and checks of their values."""

import math
from pathlib import Path
from typing import Annotated

import typer

from stc_export.spec.errors import UsageError
from stc_export.spec.policy import Policy, policy_from_argument
from stc_export.spec.tuning import TUNED, tuned_policy

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="FILE", help="adaptive, fast, paper, off, or a JSON file.")
]
BundlePolicyOption = Annotated[
    str | None,
    typer.Option("--policy", metavar="FILE", help="adaptive, fast, paper, off, tuned (by calibrate), or a JSON file."),
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory that build wrote.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", help="Threads of the backend; its own choice if not given.")
]


def read_policy(argument: str | None) -> Policy | None:
    """Return the policy that ``--policy`` names, or ``None`` when it was not given.

    Raises:
        PolicyError: Neither a known name nor a readable file, or a bad file.
    """
    return None if argument is None else policy_from_argument(argument, Path(argument))


def read_bundle_policy(argument: str | None, bundle: Path | None) -> Policy | None:
    """Return the policy that ``--policy`` names for a bundle, which may hold one that was tuned for it.

    Raises:
        PolicyError: As :func:`read_policy`; or ``tuned`` was named, and there is none for this build of the bundle.
        BundleError: ``tuned`` was named, and there is no bundle.
    """
    if argument != TUNED or bundle is None:
        return read_policy(argument)
    return tuned_policy(bundle)


def check_least(flag: str, value: float | None, least: float) -> None:
    """Check that a number is finite and at least ``least``; ``None`` passes.

    Raises:
        UsageError: It is not.
    """
    if value is not None and not (math.isfinite(value) and value >= least):
        raise UsageError(f"{flag} is {value:g}, expected at least {least:g}.", f"Raise {flag}.")


def check_above_zero(flag: str, value: float) -> None:
    """Check that a number is finite and above zero.

    Raises:
        UsageError: It is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{flag} is {value:g}, expected a number above 0.", f"Give {flag} a positive number.")
