"""``python -m stc_export`` is the same program as ``stc-export``."""

from stc_export.cli.main import entry

if __name__ == "__main__":
    entry()
