"""Mode ``--budget`` of ``calibrate``: the policy is tuned."""

from stc_export.cli.calibrate.flags import Flags
from stc_export.spec.errors import UnsupportedError


def run(flags: Flags) -> None:
    """Tune the policy of a bundle, and print what was found."""
    raise UnsupportedError(f"Tuning for {flags.budget} is not written yet.", "Use stc-export validate.")
