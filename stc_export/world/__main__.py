"""``python -m stc_export.world``."""

from stc_export.cli.main import entry, world

if __name__ == "__main__":
    entry(world)
