"""What a processor's config may say, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stc_export.exporter.preprocess import Preprocessing, read_preprocessing
from stc_export.spec.errors import CheckpointError, StcError, UnsupportedError
from stc_export.spec.manifest import PreprocessSpec

if TYPE_CHECKING:
    from pathlib import Path

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
CONFIG: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "size": {"height": 70, "width": 70},
    "resample": 3,
    "image_mean": MEAN,
    "image_std": STD,
}
VIDEO, IMAGE, PROCESSOR = "video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json"


def write(directory: Path, name: str = IMAGE, **changes: Any) -> Path:
    (directory / name).write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    return directory


def test_config_as_published_is_read(tmp_path: Path) -> None:
    expected = Preprocessing(PreprocessSpec(70, "bicubic"), tuple(MEAN), tuple(STD))
    assert read_preprocessing(write(tmp_path), 70) == expected


def test_config_of_a_checkpoint_agrees_with_what_transformers_does(tiny_checkpoint: Path) -> None:
    found = read_preprocessing(tiny_checkpoint, 70)
    assert found == Preprocessing(PreprocessSpec(70, "bicubic"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_video_processor_comes_first_wherever_it_lies(tmp_path: Path) -> None:
    """In order: a file for video, transformers 5's common file, a file for images."""
    both = {"video_processor": {**CONFIG, "resample": 2}, "image_processor": {**CONFIG, "resample": 1}}
    (tmp_path / PROCESSOR).write_text(json.dumps({"image_processor": both["image_processor"]}), encoding="utf-8")
    assert read_preprocessing(tmp_path, 70).spec.resample == "lanczos"
    write(tmp_path, resample=0)
    assert read_preprocessing(tmp_path, 70).spec.resample == "nearest"
    (tmp_path / PROCESSOR).write_text(json.dumps(both), encoding="utf-8")
    assert read_preprocessing(tmp_path, 70).spec.resample == "bilinear"
    write(tmp_path, VIDEO, resample=3)
    assert read_preprocessing(tmp_path, 70).spec.resample == "bicubic"


def test_size_may_be_a_single_number_and_defaults_may_be_absent(tmp_path: Path) -> None:
    minimal = {"size": 70, "image_mean": MEAN, "image_std": STD}
    (tmp_path / IMAGE).write_text(json.dumps(minimal), encoding="utf-8")
    assert read_preprocessing(tmp_path, 70).spec == PreprocessSpec(70, "bicubic")


def test_no_processor_config_says_what_to_copy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_preprocessing(tmp_path, 70)
    names = "preprocessor_config.json or video_preprocessor_config.json"
    assert caught.value.problem == f'"{tmp_path}" has no {names}.'
    assert caught.value.fix == "Copy the processor's files next to the weights (processor.save_pretrained)."


@pytest.mark.parametrize("size", [{"height": 70, "width": 384}, {"shortest_edge": 70}, {}, 384, "70", None, [70, 70]])
def test_other_size_than_the_model_takes_is_refused(tmp_path: Path, size: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_preprocessing(write(tmp_path, size=size), 70)
    assert caught.value.problem == f"{IMAGE} has size = {size!r}, the model takes 70 x 70."


@pytest.mark.parametrize(
    ("key", "value"),
    [("do_resize", False), ("do_rescale", False), ("do_normalize", False), ("do_center_crop", True)],
)
def test_step_that_the_graphs_do_not_have_is_refused(tmp_path: Path, key: str, value: bool) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_preprocessing(write(tmp_path, **{key: value}), 70)
    assert caught.value.problem == (
        f"{IMAGE} has {key} = {value}; frames are resized, rescaled and normalised, not cropped."
    )


@pytest.mark.parametrize("factor", [1.0, 1 / 256, "1/255", None, float("nan")])
def test_other_rescale_factor_is_refused(tmp_path: Path, factor: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"has rescale_factor = .*, expected 1/255\.") as caught:
        read_preprocessing(write(tmp_path, rescale_factor=factor), 70)
    assert repr(factor) in caught.value.problem


@pytest.mark.parametrize("resample", [4, -1, "bicubic", None, [3], {}])
def test_other_filter_is_refused(tmp_path: Path, resample: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_preprocessing(write(tmp_path, resample=resample), 70)
    assert caught.value.problem == f"{IMAGE} asks for resample = {resample!r}."
    assert caught.value.fix == "Use one of: 0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic)."


@pytest.mark.parametrize("key", ["image_mean", "image_std"])
@pytest.mark.parametrize(
    "values",
    [None, 0.5, [0.5], [0.5] * 4, ["a"] * 3, [True] * 3, [0.5, 0.5, float("nan")], [0.5, 0.5, 10**400], [-0.1] * 3],
)
def test_channels_that_are_not_three_fitting_numbers_are_refused(tmp_path: Path, key: str, values: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_preprocessing(write(tmp_path, **{key: values}), 70)
    least = "0" if key == "image_mean" else "0.001"
    assert caught.value.problem == f"{IMAGE} has {key} = {values!r:.60}, expected three numbers from {least} to 1."


def test_deviation_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"image_std = \[0, 0\.5, 0\.5\], expected three numbers from 0\.001 to 1"
    ):
        read_preprocessing(write(tmp_path, image_std=[0, 0.5, 0.5]), 70)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{"])
def test_config_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / IMAGE).write_bytes(content)
    with pytest.raises(CheckpointError, match=IMAGE):
        read_preprocessing(tmp_path, 70)


@settings(max_examples=100)
@given(
    st.sampled_from([*CONFIG, "do_center_crop"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.floats(), max_size=4)
    | st.dictionaries(st.sampled_from(["height", "width"]), st.integers() | st.text()),
)
def test_any_value_of_any_key_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    directory = tmp_path_factory.getbasetemp() / "any-processor"
    directory.mkdir(exist_ok=True)
    try:
        found = read_preprocessing(write(directory, **{key: value}), 70)
    except StcError:
        return
    assert found.spec.size == 70
