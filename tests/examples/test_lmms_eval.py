"""The adapter for lmms-eval, against stand-ins for the few names of lmms-eval 0.7.3 that it uses."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stc_export.spec.errors import UnsupportedError, UsageError, VideoError
from stc_runtime import StreamSession, named_policies
from stc_runtime.video import read_frames
from tests.videos import write_moving_square

FOLDER = Path(__file__).parents[2] / "examples" / "lmms_eval"
GREEDY = {"max_new_tokens": 4, "do_sample": False, "temperature": 0}


class Hook:
    """Keeps what lmms-eval would put in its cache."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, str]] = []

    def add_partial(self, attr: str, req: Any, res: str) -> None:
        self.kept.append((attr, req, res))


class Lmms:
    """The base class: what its constructor sets, and who makes models from ``--model_args``."""

    def __init__(self) -> None:
        self.cache_hook = Hook()
        self.task_dict: dict[str, Any] = {}

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any]) -> Any:
        own = dict(part.split("=", 1) for part in arg_string.split(","))
        return cls(**own, **{k: v for k, v in additional_config.items() if v is not None})


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None


@dataclass(frozen=True)
class Request:
    args: tuple[Any, ...] = field(default=())


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in (
        "lmms_eval",
        "lmms_eval.api",
        "lmms_eval.api.model",
        "lmms_eval.models",
        "lmms_eval.models.registry_v2",
    ):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = Lmms  # type: ignore[attr-defined]
    sys.modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("stc_lmms_eval", FOLDER / "stc_lmms_eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_moving_square(tmp_path / "a.mp4")


def make(adapter: Any, bundle: Path, video: Path, **settings: str) -> Any:
    flags = ",".join(
        f"{key}={value}" for key, value in {"bundle": bundle, "policy": "off", "fps": 2, **settings}.items()
    )
    config = {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    model = adapter.Stc.create_from_arg_string(flags, config)
    model.task_dict = {"videomme": {"test": [{"path": str(video)}, {"path": str(video.with_name("missing.mp4"))}]}}
    return model


def request(question: str, doc_id: int = 0, **settings: Any) -> Request:
    return Request((question, {**GREEDY, **settings}, lambda doc: [doc["path"]], doc_id, "videomme", "test"))


def test_answers_are_those_of_a_session_that_watched_the_video(adapter: Any, tiny_bundle: Path, video: Path) -> None:
    with StreamSession.open(tiny_bundle, named_policies()["off"]) as session:
        for frame, seconds in read_frames(video, 2.0):
            session.push(frame, seconds)
        expected = ["".join(piece.text for piece in session.ask(one, max_tokens=4)) for one in ("What?", "Who?")]
        frames = session._pushed
    model = make(adapter, tiny_bundle, video)
    assert model.generate_until([request("What?"), request("Who?")]) == expected
    assert model._session._pushed == frames == 6  # the second question needs no second look
    assert [(attr, req[0], res) for attr, req, res in model.cache_hook.kept] == [
        ("generate_until", "What?", expected[0]),
        ("generate_until", "Who?", expected[1]),
    ]


def test_a_video_that_failed_is_not_taken_for_watched(adapter: Any, tiny_bundle: Path, video: Path) -> None:
    model = make(adapter, tiny_bundle, video)
    first = model.generate_until([request("What?")])
    with pytest.raises(VideoError, match="does not exist"):
        model.generate_until([request("What?", doc_id=1)])
    assert model.generate_until([request("What?")]) == first


def test_what_a_session_cannot_do_is_refused(adapter: Any, tiny_bundle: Path, video: Path) -> None:
    model = make(adapter, tiny_bundle, video)
    with pytest.raises(UnsupportedError, match="samples its answers"):
        model.generate_until([request("What?", do_sample=True)])
    with pytest.raises(UnsupportedError, match="ask for likelihoods"):
        model.loglikelihood([Request()])
    with pytest.raises(UnsupportedError, match="several rounds"):
        model.generate_until_multi_round([Request()])
    pictures = Request(("What?", GREEDY, lambda _: [object()], 0, "videomme", "test"))
    with pytest.raises(UnsupportedError, match="1 things of which 0 are files"):
        model.generate_until([pictures])
    with pytest.raises(UsageError, match="batch_size is 2"):
        adapter.Stc(str(tiny_bundle), batch_size=2)
    with pytest.raises(UsageError, match="model_args has frames"):
        make(adapter, tiny_bundle, video, frames="8")


@pytest.mark.parametrize(
    ("text", "ends", "expected"),
    [("A\n\nbecause", ["\n\n"], "A"), ("\n\nA", "\n\n", "\n\nA"), ("A. B", [".", ""], "A"), ("A", [], "A")],
)
def test_an_answer_ends_before_its_first_end(adapter: Any, text: str, ends: Any, expected: str) -> None:
    assert adapter._until(text, ends) == expected


def test_the_entry_point_names_the_class(adapter: Any) -> None:
    text = (FOLDER / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."lmms_eval.models"]\nstc = "stc_lmms_eval:manifest"\n' in text
    module, name = adapter.manifest().simple_class_path.rsplit(".", 1)
    assert (module, getattr(adapter, name)) == ("stc_lmms_eval", adapter.Stc)
