"""Which target this machine is, by its board, its GPU and what is installed."""

from __future__ import annotations

from dataclasses import dataclass

from stc_engines.detect import Device, Gpu, read_device, read_gpu
from stc_engines.runnable import Host, check_runnable, needs_gpu, read_host
from stc_engines.table import Target, describes, load_targets
from stc_export.spec.errors import DeviceError, MissingDependencyError


@dataclass(frozen=True)
class Machine:
    """What is known of a machine.

    Attributes:
        device: Board and memory.
        gpu: The first NVIDIA GPU.
        host: What there is to run graphs with.
    """

    device: Device
    gpu: Gpu | None
    host: Host


def read_machine() -> Machine:
    """Look at this machine."""
    return Machine(read_device(), read_gpu(), read_host())


def check_is_here(target: Target, machine: Machine) -> None:
    """Check that a machine is a target: the board or GPU that the target names, with what runs its bundles.

    Raises:
        MissingDependencyError: A package is missing.
        DeviceError: It is another device, or has none.
    """
    if not _is_device(target, machine):
        found = ", ".join(filter(None, (machine.device.model, machine.gpu.name if machine.gpu else None)))
        here = detect_target(machine)
        raise DeviceError(
            f'This machine ({found or "no known board, no NVIDIA GPU"}) is not "{target.name}".',
            f'Run it on that device; this one is "{here.name}".' if here else "Run it on that device.",
        )
    check_runnable(target, machine.host)


def detect_target(machine: Machine) -> Target | None:
    """Return the target that says most about a machine: its board or GPU before any GPU, and that before any CPU."""
    here = [target for target in load_targets() if _is_here(target, machine)]
    return max(here, key=lambda target: (_names_device(target), needs_gpu(target)), default=None)


def _names_device(target: Target) -> bool:
    return bool(target.device_models or target.gpu_names)


def _is_device(target: Target, machine: Machine) -> bool:
    if target.device_models and not describes(target, machine.device):
        return False
    return not target.gpu_names or (machine.gpu is not None and machine.gpu.name in target.gpu_names)


def _is_here(target: Target, machine: Machine) -> bool:
    if not _is_device(target, machine):
        return False
    try:
        check_runnable(target, machine.host)
    except (DeviceError, MissingDependencyError):
        return False
    return True
