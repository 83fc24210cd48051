"""Static checks: what of a graph a target cannot run, or runs slower than it could, found without the device."""
