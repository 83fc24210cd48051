"""Targets: which devices there are, which one this is, and what it takes to run on one."""

from stc_engines.detect import Device, read_device
from stc_engines.opening import open_backend
from stc_engines.runnable import Host, check_runnable, read_host
from stc_engines.table import Target, find_target, load_targets

__all__ = [
    "Device",
    "Host",
    "Target",
    "check_runnable",
    "find_target",
    "load_targets",
    "open_backend",
    "read_device",
    "read_host",
]
