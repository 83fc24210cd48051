"""The sources of the four packages, found from this file: the tests look at the checkout, not at an installed copy."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "stc_export": ROOT / "stc_export",
    "stc_engines": ROOT / "engines/stc_engines",
    "stc_runtime": ROOT / "runtime/stc_runtime",
    "stc_calib": ROOT / "calib/stc_calib",
}


def module_files() -> list[Path]:
    """All Python files of the four packages."""
    return sorted(file for package in PACKAGES.values() for file in package.rglob("*.py"))


def module_name(file: Path) -> str:
    """``engines/stc_engines/table.py`` -> ``stc_engines.table``."""
    package = next(folder for folder in PACKAGES.values() if folder in file.parents)
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
