"""What is checked and known before a weight is read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import load_file, save_file

from stc_engines import find_target, load_targets
from stc_export.exporter.checkpoint import Checkpoint
from stc_export.pipeline import plan as module
from stc_export.pipeline.build import plan_build
from stc_export.pipeline.plan import check_output
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.errors import CheckpointError, PolicyError, StcError, UnsupportedError, UsageError
from stc_export.spec.manifest import read_manifest
from stc_export.spec.policy import CacherPolicy, GatePolicy, MemoryPolicy, Policy, PrunerPolicy

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own to spoil."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def refusal(model: Path | str, **changes: Any) -> StcError:
    request = BuildRequest(str(model), out=Path("x.stc") if isinstance(model, str) else model.parent / "x.stc")
    with pytest.raises(StcError) as caught:
        plan_build(replace(request, **changes))
    return caught.value


def test_plan_reads_no_weight(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not through the checkpoint, and not in any other way: the bytes of the tensors are all NaN."""
    expected = plan_build(BuildRequest(str(model), out=model.parent / "x.stc"))
    file = model / "model.safetensors"
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    file.write_bytes(data[:start] + b"\xff" * (len(data) - start))
    monkeypatch.setattr(Checkpoint, "read", None)
    monkeypatch.setattr(Checkpoint, "read_blocks", None)
    assert plan_build(BuildRequest(str(model), out=model.parent / "x.stc")) == expected
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_plan_agrees_with_the_bundle_that_is_built(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    plan = plan_build(BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc"))
    manifest = read_manifest(tiny_bundle)
    assert [(graph.role, graph.variant) for graph in plan.graphs] == [(g.role, g.variant) for g in manifest.graphs]
    assert (plan.model, plan.parameters) == (manifest.model.name, manifest.model.parameters)
    assert (plan.family, plan.target, plan.precision, plan.flavour) == (
        manifest.model.family,
        manifest.target,
        manifest.precision,
        manifest.flavour,
    )
    assert plan.out == tmp_path / "x.stc"


@pytest.mark.parametrize(
    ("target", "asked", "flavour"),
    [
        ("cpu", None, "base"),
        ("cpu", "modern", "modern"),
        ("h200", None, "modern"),
        ("h200", "base", "base"),
        ("jetson-orin-nano-8gb", None, "base"),
    ],
)
def test_flavour_is_the_targets_or_what_was_asked_for(
    tiny_checkpoint: Path, tmp_path: Path, target: str, asked: str | None, flavour: str
) -> None:
    request = BuildRequest(str(tiny_checkpoint), target=target, out=tmp_path / "x.stc", flavour=asked)
    assert plan_build(request).flavour == flavour


def test_flavour_that_does_not_exist_names_the_nearest(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        plan_build(BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc", flavour="modem"))
    assert caught.value.problem == 'There are no graphs of the flavour "modem".'
    assert caught.value.fix == 'Did you mean "modern"? Known: base, modern.'


def test_plan_of_half_precision_halves_the_large_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc")
    full, half = (plan_build(replace(request, precision=precision)).size for precision in ("fp32", "fp16"))
    assert half.feature_cache_bytes * 2 == full.feature_cache_bytes
    assert half.kv_bytes * 2 == full.kv_bytes
    assert 0.5 < half.weights_bytes / full.weights_bytes < 0.55  # norms stay float32


def test_out_is_named_after_the_model_by_default(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_build(BuildRequest(str(tiny_checkpoint))).out == Path("tiny.stc")
    source = module.Source(tiny_checkpoint, "some-org/some-model")
    assert module.prepare(BuildRequest("some-org/some-model"), source).plan.out == Path("some-model.stc")


# --- the request -----------------------------------------------------------------------------------------------------


def test_unknown_target_and_precision_name_the_nearest(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = {"out": tmp_path / "x.stc"}
    assert refusal(tiny_checkpoint, target="cpi", **out).fix.startswith('Did you mean "cpu"? Known: ')
    error = refusal(tiny_checkpoint, precision="fp8", **out)
    assert (error.problem, error.fix) == (
        'Target cpu has no precision "fp8".',
        'Did you mean "fp32"? Known: fp32, fp16, int4, int4-128, int8.',
    )


def test_default_precision_is_the_target_s(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc")
    found = {
        target: plan_build(replace(request, target=target)).precision for target in ("cpu", "jetson-orin-nano-8gb")
    }
    assert found == {"cpu": "fp32", "jetson-orin-nano-8gb": "fp16"}


def test_bf16_is_refused_on_targets_whose_data_do_not_have_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.stc"
    for target in load_targets():
        if "bf16" in target.precisions:
            request = BuildRequest(str(tiny_checkpoint), target=target.name, out=out, precision="bf16")
            assert plan_build(request).precision == "bf16"
            continue
        error = refusal(tiny_checkpoint, precision="bf16", target=target.name, out=out)
        assert error.problem == f'Target {target.name} has no precision "bf16".'
        assert error.fix.endswith("Known: fp32, fp16, int4, int4-128, int8.")


def test_target_with_several_precisions_by_default_needs_one_to_be_named(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What graphs hand each other is never converted."""
    rtx = find_target("rtx")
    mixed = replace(rtx, default_precision=replace(rtx.default_precision, vit="bf16"))
    monkeypatch.setattr(module, "find_target", lambda _name: mixed)
    out = tmp_path / "x.stc"
    error = refusal(tiny_checkpoint, target="rtx", out=out)
    assert isinstance(error, UnsupportedError)
    assert error.problem == (
        "Target rtx has graphs of several precisions by default (cacher_gate fp16, vit bf16, pruner fp16, llm fp16, "
        "embed fp16), and what one hands the next must have one type."
    )
    assert error.fix == "Name one for all with --precision. Known: fp32, fp16, bf16."
    named = BuildRequest(str(tiny_checkpoint), target="rtx", out=out, precision="bf16")
    assert plan_build(named).precision == "bf16"


def test_policy_with_an_unknown_method_names_the_nearest(tiny_checkpoint: Path, tmp_path: Path) -> None:
    policy = Policy(pruner=PrunerPolicy(method="stc_dual"))
    error = refusal(tiny_checkpoint, policy=policy, out=tmp_path / "x.stc")
    assert isinstance(error, UnsupportedError)
    assert error.problem == 'The policy asks for the pruning method "stc_dual".'
    known = "none, random, stc_gaussian, stc_dual_anchor, stride, vidcom2, vcast, evs"
    assert error.fix == f'Did you mean "stc_dual_anchor"? Known: {known}.'


def test_policy_with_a_metric_that_is_not_built_names_the_flag(tiny_checkpoint: Path, tmp_path: Path) -> None:
    policy = Policy(GatePolicy("paper"), CacherPolicy("per_layer", metric="l2"))
    error = refusal(tiny_checkpoint, policy=policy, out=tmp_path / "x.stc")
    assert isinstance(error, UnsupportedError)
    told = 'The policy needs the vit graph "per_layer.l2", which is built only when asked for.'
    assert (error.problem, error.fix) == (told, "Add --metrics l2.")
    request = BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc", policy=policy, metrics=("l2",))
    plan, plain = plan_build(request), plan_build(BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc"))
    assert len(plan.graphs) == len(plain.graphs) + 3
    assert plan.size.disk_bytes == plain.size.disk_bytes  # the weights are those of the others
    assert plan.size.weights_bytes == plain.size.weights_bytes


def test_policy_with_a_method_that_is_not_built_names_the_flag(tiny_checkpoint: Path, tmp_path: Path) -> None:
    policy = Policy(pruner=PrunerPolicy(method="visionzip"))
    error = refusal(tiny_checkpoint, policy=policy, out=tmp_path / "x.stc")
    told = 'The policy needs the pruner graph "visionzip", which is built only when asked for.'
    assert (error.problem, error.fix) == (told, "Add --attention.")
    request = BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc", policy=policy)
    plan, plain = plan_build(replace(request, attention=True)), plan_build(replace(request, policy=Policy()))
    assert [g.variant for g in plan.graphs if g not in plain.graphs] == ["visionzip"]


def test_policy_that_the_model_cannot_hold_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    error = refusal(tiny_checkpoint, policy=Policy(memory=MemoryPolicy(kv_tokens=5000)), out=tmp_path / "x.stc")
    assert isinstance(error, PolicyError)
    assert error.problem.startswith("memory.kv_tokens is 5000, but the model's context of 1024 leaves 512 beside 512")


# --- the checkpoint --------------------------------------------------------------------------------------------------


def test_missing_processor_is_named(model: Path) -> None:
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (model / name).unlink()
    assert refusal(model).problem == f'"{model}" has no preprocessor_config.json or video_preprocessor_config.json.'


def test_processor_of_another_size_is_refused(model: Path) -> None:
    edit(model / "video_preprocessor_config.json", lambda data: data.update(size={"height": 384, "width": 384}))
    assert refusal(model).problem.endswith("the model takes 70 x 70.")


def test_processor_with_a_step_of_its_own_is_refused(model: Path) -> None:
    edit(model / "video_preprocessor_config.json", lambda data: data.update(do_center_crop=True))
    assert isinstance(refusal(model), UnsupportedError)


def test_config_of_another_model_is_refused_by_tensor_and_shapes(model: Path) -> None:
    edit(model / "config.json", lambda data: data["text_config"].update(intermediate_size=128))
    names = " + ".join(f"language_model.model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))
    error = refusal(model)
    assert error.problem == (
        f'Weights and config of "{model}" disagree: {names} is [224, 48], the config calls for [256, 48].'
    )
    assert error.fix == "Use the config.json that was saved with these weights."


def test_config_with_more_layers_than_weights_is_refused(model: Path) -> None:
    edit(model / "config.json", lambda data: data["vision_config"].update(num_hidden_layers=4))
    name = "vision_tower.encoder.layers.3.self_attn.q_proj.weight"
    assert refusal(model).problem == f'The weights in "{model}" lack "{name}", which their config calls for.'


def test_output_layer_that_is_missing_is_named_unless_it_is_tied(model: Path) -> None:
    """The published 0.5B checkpoint says false for the whole, true for its text part, and has no output layer."""

    def untie(data: dict[str, Any], text: bool) -> None:
        data["tie_word_embeddings"] = False
        data["text_config"]["tie_word_embeddings"] = text

    edit(model / "config.json", lambda data: untie(data, text=True))
    assert plan_build(BuildRequest(str(model), out=model.parent / "x.stc")).parameters > 0
    edit(model / "config.json", lambda data: untie(data, text=False))
    assert refusal(model).problem == f'The weights in "{model}" lack "lm_head.weight", which their config calls for.'


def test_tensor_that_nothing_uses_is_ignored(model: Path) -> None:
    request = BuildRequest(str(model), out=model.parent / "x.stc")
    before = plan_build(request)
    tensors = load_file(model / "model.safetensors")
    tensors["something.else"] = tensors["image_newline"].copy()
    save_file(tensors, model / "model.safetensors")
    assert plan_build(request) == before


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", "{"), ("config.json", None), ("tokenizer.json", None), ("model.safetensors", "")],
)
def test_missing_or_corrupt_file_is_named(model: Path, file: str, content: str | None) -> None:
    (model / file).unlink()
    if content is not None:
        (model / file).write_text(content, encoding="utf-8")
    error = refusal(model)
    assert isinstance(error, CheckpointError)
    assert file in str(error)


def test_other_architecture_is_refused_before_its_weights_are_looked_for(model: Path) -> None:
    edit(model / "config.json", lambda data: data.update(architectures=["Qwen2VLForConditionalGeneration"]))
    (model / "model.safetensors").unlink()
    error = refusal(model)
    assert error.problem == '"model" is a Qwen2VLForConditionalGeneration, which cannot be split yet.'
    assert "LlavaOnevisionForConditionalGeneration" in error.fix


# --- the place -------------------------------------------------------------------------------------------------------


def test_output_is_checked_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.stc").mkdir()
    error = refusal(tmp_path / "empty", out=tmp_path / "x.stc")
    assert error.problem == f'"{tmp_path / "x.stc"}" already exists.'


def test_output_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_output(tmp_path / "no" / "x.stc", overwrite=True)
    assert caught.value.problem == f'The directory "{tmp_path / "no"}" for the bundle is missing.'
    assert caught.value.fix == "Create it first."


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link", "link to a file"])
def test_output_that_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "x.stc"
    if kind == "file":
        out.write_text("mine", encoding="utf-8")
    elif kind == "folder":
        (out / "sub").mkdir(parents=True)
    else:
        out.symlink_to(tmp_path / ("nothing" if kind == "dangling link" else "file"))
        (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        check_output(out, overwrite=True)
    assert caught.value.problem == f'"{out}" exists and is not a bundle.'
    assert caught.value.fix == "Choose another --out; only bundles are replaced."
    with pytest.raises(UsageError, match="already exists"):
        check_output(out, overwrite=False)


def test_output_that_is_free_or_a_bundle_to_replace_is_fine(tmp_path: Path, tiny_bundle: Path) -> None:
    check_output(tmp_path / "x.stc", overwrite=False)
    check_output(tiny_bundle, overwrite=True)
