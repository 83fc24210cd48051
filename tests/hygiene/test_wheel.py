from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from stc_export import __version__
from tests.hygiene.sources import PACKAGES, ROOT, module_files

if TYPE_CHECKING:
    from pathlib import Path

#: The only places for files that are not Python.
DATA = {
    "stc_engines/lint": {".txt"},
    "stc_engines/targets": {".json"},
    "stc_export/demo/model": {".json", ".safetensors", ".jinja", ".md"},
    "stc_export/pipeline/validate": {".jinja"},
    "stc_export/world": {".json"},
    "stc_calib/data": {".jpg", ".png", ".md"},
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel that is built now, without network."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    assert wheel.name == f"stc_export-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def packaged(file: Path) -> str:
    package = next(folder for folder in PACKAGES.values() if folder in file.parents)
    return file.relative_to(package.parent).as_posix()


def test_wheel_top_level_is_the_four_packages_and_metadata(names: list[str]) -> None:
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"stc_export-{__version__}.dist-info"}


def test_wheel_has_every_module_and_no_other_python(names: list[str]) -> None:
    assert {name for name in names if name.endswith(".py")} == {packaged(file) for file in module_files()}


def test_wheel_has_every_target(names: list[str]) -> None:
    expected = {packaged(file) for file in (PACKAGES["stc_engines"] / "targets").glob("*.json")}
    assert expected
    assert {name for name in names if name.startswith("stc_engines/targets/") and name.endswith(".json")} == expected


def test_wheel_has_other_files_only_where_data_belongs(names: list[str]) -> None:
    others = [PurePosixPath(name) for name in names if not name.endswith(".py") and ".dist-info/" not in name]
    assert [path for path in others if path.suffix not in DATA.get(str(path.parent), set())] == []


def test_wheel_has_licence_and_program(names: list[str]) -> None:
    info = f"stc_export-{__version__}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= set(names)
