"""What a test needs of the machine it runs on: the only place that decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from stc_engines.recognise import Machine, check_is_here
from stc_engines.recognise import read_machine as look
from stc_engines.runnable import check_runnable
from stc_engines.table import Target, find_target, load_targets
from stc_engines.trt.product import PRODUCTS
from stc_export.spec.errors import StcError


@cache
def read_machine() -> Machine:
    """This machine, looked at once."""
    return look()


def sealed_target(machine: Machine) -> Target:
    """The target that engines are made for here: that of the device, or any that runs on a compiler which is here.

    Raises:
        StcError: There is no GPU, or no compiler.
    """
    targets = [target for target in load_targets() if target.backend.kind in PRODUCTS]
    reasons = []
    for target in sorted(targets, key=lambda target: not (target.device_models or target.gpu_names)):
        try:
            check_is_here(target, machine)
        except StcError as error:
            reasons.append(error)
        else:
            return target
    raise reasons[-1]


def _jetson(machine: Machine) -> None:
    if machine.device.group != "jetson":
        raise StcError("This machine is no Jetson.", "Run it on one.")


#: From a marker to what raises if the machine lacks what tests with it need.
NEEDS: Mapping[str, Callable[[Machine], object]] = {
    "gpu": lambda machine: check_runnable(find_target("cuda"), machine.host),
    "trt": sealed_target,
    "jetson": _jetson,
}


def reason_to_skip(marker: str, machine: Machine) -> str | None:
    """Why tests with a marker cannot run on a machine; ``None`` if they can."""
    try:
        NEEDS[marker](machine)
    except StcError as error:
        return error.problem
    return None
