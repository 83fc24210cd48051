from __future__ import annotations

import dataclasses
import json
from importlib.resources import files

import pytest

from stc_engines import Device, find_target, load_targets
from stc_engines.opening import product_of
from stc_engines.table import GraphPrecisions, Target
from stc_engines.trt.product import PRODUCTS
from stc_export.spec import codec
from stc_export.spec.errors import UnsupportedError
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.trt import TrtBackend

NANO = "jetson-orin-nano-8gb"
ELSEWHERE = Device()


def orin(model: str, gib: float) -> Device:
    return Device(group="jetson", model=model, l4t="36.4.3", memory_bytes=int(gib * 2**30))


@pytest.fixture(params=load_targets(), ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    return request.param


def test_load_targets_has_the_named_ones_in_order() -> None:
    names = [target.name for target in load_targets()]
    assert names == sorted(names)
    assert {"cpu", "cuda", NANO} <= set(names)


def test_target_file_round_trips_through_the_codec(target: Target) -> None:
    assert codec.from_json(Target, codec.to_json(target)) == target


def test_target_default_precisions_are_of_its_precisions_and_the_same_for_all_graphs(target: Target) -> None:
    """One for all is what can be built today."""
    defaults = set(vars(target.default_precision).values())
    assert defaults <= set(target.precisions)
    assert len(defaults) == 1


def test_default_precision_is_named_once_or_per_graph() -> None:
    half = GraphPrecisions("fp16", "fp16", "fp16", "fp16", "fp16")
    assert half.text == "fp16"
    mixed = dataclasses.replace(half, vit="int8", llm="int4")
    assert mixed.text == "cacher_gate fp16, vit int8, pruner fp16, llm int4, embed fp16"


def test_target_that_computes_bf16_has_its_peak_beside_that_of_fp16(target: Target) -> None:
    rates = {row.precision: row.tera_ops_per_s for row in target.dense_throughput}
    assert rates.get("bf16") == (rates.get("fp16") if "bf16" in target.precisions else None)


def test_target_evidence_has_a_date_exactly_when_something_was_done(target: Target) -> None:
    assert (target.evidence.date is None) == (target.evidence.state == "untested")
    assert target.evidence.note.endswith(".")


def test_target_every_figure_has_its_source_and_no_source_lacks_its_figure(target: Target) -> None:
    optional = ("gpu_names", "sm", "memory_bytes", "memory_reserved_bytes", "bandwidth_bytes_per_s", "software")
    figures = (
        {"precisions"}
        | ({"backend.streams"} if target.backend.streams == "two" else set())
        | ({"flavour"} if target.flavour != "base" else set())
        | {name for name in optional if getattr(target, name)}
    )
    figures |= {f"dense_throughput.{row.precision}" for row in target.dense_throughput}
    assert {source.figure for source in target.sources} == figures


def test_target_throughput_grows_as_the_precision_shrinks(target: Target) -> None:
    bits = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "fp8": 8, "int4": 4, "fp4": 4}
    rows = sorted(target.dense_throughput, key=lambda row: -bits[row.precision])
    rates = [row.tera_ops_per_s for row in rows]
    assert rates == sorted(rates)
    assert {row.precision for row in rows} <= set(target.precisions)


def test_find_target_defaults_of_the_three_known_ones() -> None:
    defaults = {name: find_target(name).default_precision.text for name in ("cpu", "cuda", NANO)}
    assert defaults == {"cpu": "fp32", "cuda": "fp16", NANO: "fp16"}


def test_flavour_modern_is_for_compilers_that_all_have_it(target: Target) -> None:
    if target.flavour == "modern":
        oldest = PRODUCTS[product_of(target)].oldest["modern"]
        listed = [tuple(int(part) for part in row.tensorrt.split(".")[:2]) for row in target.software]
        assert all(release >= oldest for release in listed)


def test_flavour_of_the_targets() -> None:
    modern = {target.name for target in load_targets() if target.flavour == "modern"}
    assert modern == {"rtx", "a100", "l4", "l40s", "h100", "h200", "b200"}


def test_find_target_orin_nano_has_the_data_sheet_figures() -> None:
    nano = find_target(NANO)
    assert (nano.sm, nano.memory_bytes, nano.memory_unified) == ("8.7", 8 * 2**30, True)
    # 2 (multiply and add) x 2048 int8 x 8 SM x 625 MHz of the data sheet, and half of it
    fp16, _bf16, int8 = (row.tera_ops_per_s for row in nano.dense_throughput)
    assert int8 == pytest.approx(2 * 2048 * 8 * 625e6 / 1e12, rel=0.03)
    assert fp16 * 2 == int8
    # 128 bit x 4,266 MT/s
    assert nano.bandwidth_bytes_per_s == pytest.approx(16 * 4266e6, rel=0.01)


def test_find_target_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnsupportedError) as caught:
        find_target("jetson-orin-nano-8g")
    assert caught.value.problem == 'There is no target "jetson-orin-nano-8g".'
    known = ", ".join([*(target.name for target in load_targets()), "jetson"])
    assert caught.value.fix == f'Did you mean "{NANO}"? Known: {known}.'


def test_find_target_jetson_elsewhere_is_the_most_conservative_board() -> None:
    assert find_target("jetson", ELSEWHERE).name == NANO


def test_find_target_jetson_on_the_board_is_the_board() -> None:
    board = orin("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", 7.4)
    assert find_target("jetson", board).name == NANO


@pytest.mark.parametrize(
    ("model", "gib", "name"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", 3.3, "jetson-orin-nano-4gb"),
        ("NVIDIA Jetson Orin Nano Developer Kit", 7.4, NANO),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 7.3, "jetson-orin-nx-8gb"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 15.3, "jetson-orin-nx-16gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 29.8, "jetson-agx-orin-32gb"),
        ("Jetson AGX Orin", 61.4, "jetson-agx-orin-64gb"),
        ("NVIDIA Jetson AGX Thor Developer Kit", 122.8, "jetson-thor-t5000"),
        ("NVIDIA Jetson AGX Thor Developer Kit", 61.4, "jetson-thor-t4000"),
    ],
)
def test_find_target_jetson_on_a_board_is_the_one_with_its_memory(model: str, gib: float, name: str) -> None:
    assert find_target("jetson", orin(model, gib)).name == name


def test_targets_are_those_that_the_project_promises() -> None:
    boards = ["orin-nano-4gb", "orin-nano-8gb", "orin-nx-8gb", "orin-nx-16gb", "agx-orin-32gb", "agx-orin-64gb"]
    promised = {f"jetson-{board}" for board in [*boards, "thor-t4000", "thor-t5000"]}
    promised |= {"a100", "l4", "l40s", "h100", "h200", "b200", "cpu", "cuda", "rtx"}
    assert {target.name for target in load_targets()} == promised


@pytest.mark.parametrize(("model", "gib"), [("NVIDIA Jetson AGX Xavier", 31.2), ("Jetson Orin Nano", 1.9)])
def test_find_target_jetson_on_a_board_without_file_names_the_board(model: str, gib: float) -> None:
    with pytest.raises(UnsupportedError) as caught:
        find_target("jetson", orin(model, gib))
    assert model in caught.value.problem
    assert f"--target {NANO}" in caught.value.fix


def test_find_target_exact_name_ignores_the_machine() -> None:
    assert find_target("cpu", orin("NVIDIA Jetson AGX Orin", 61.4)).name == "cpu"


def test_target_file_with_an_unknown_key_is_refused() -> None:
    data = json.loads((files("stc_engines.targets") / "cpu.json").read_text(encoding="utf-8"))
    data["memory"] = 1
    with pytest.raises(codec.DecodeError, match='unknown key "memory"'):
        codec.from_plain(Target, data)


def test_targets_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_target("cpu").name = "x"  # type: ignore[misc]


def test_backends_of_targets_write_in_place_as_the_runtime_does() -> None:
    """The table plans memory without importing a backend."""
    in_place = {target.backend.kind: target.backend.in_place for target in load_targets()}
    assert in_place == {"ort": OrtBackend.in_place, "trt": TrtBackend.in_place, "trt-rtx": TrtBackend.in_place}
