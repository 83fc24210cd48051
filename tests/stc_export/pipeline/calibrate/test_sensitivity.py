"""What rounding a layer costs, against transformers' whole model with weights that were rounded by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from stc_export.cli.calibrate.sensitivity import result_text
from stc_export.cli.main import main
from stc_export.pipeline.build import run_build
from stc_export.pipeline.calibrate.sensitivity import run_sensitivity
from stc_export.pipeline.calibrate.sensitivity_types import SensitivityRequest, SensitivityResult
from stc_export.pipeline.plan import prepare
from stc_export.pipeline.prompts import read_prompts
from stc_export.pipeline.source import Source
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.errors import UsageError
from stc_export.spec.manifest import manifest_to_text, read_manifest
from stc_export.spec.policy import named_policies
from stc_export.spec.progress import Silent
from stc_runtime import StreamSession
from tests.bundles import ALL_SLOTS
from tests.stc_export.pipeline.small_bundle import write_small_bundle

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [f"llm.layers.{i}.{name}" for i in (0, 1) for name in ("qkv", "out", "gate_up", "down")]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sensitivity") / "x.json"


@pytest.fixture(scope="module")
def result(even_checkpoint: Path, evidence: Path) -> SensitivityResult:
    return run_sensitivity(SensitivityRequest(str(even_checkpoint), out=evidence), Silent())


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Round to a seventh of the largest of 32 weights that lie side by side."""
    blocks = weight.double().reshape(len(weight), -1, 32)
    steps = blocks.abs().amax(-1, keepdim=True) / 7
    return ((blocks / steps).round() * steps).reshape(weight.shape).float()


def by_hand(directory: Path, module: str) -> tuple[float, float, float]:
    """Return KL, cosine and share of equal tokens with one module rounded."""
    from transformers import LlavaOnevisionForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: Any = LlavaOnevisionForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    build = prepare(BuildRequest(str(directory), precision="int4"), Source(directory, "x"))
    embeds = build.model.embed_prompts(build.checkpoint, build.preprocessing, read_prompts(build, None), {}).prompts

    def run() -> list[tuple[torch.Tensor, torch.Tensor]]:
        with torch.no_grad():
            states = [
                model.model.language_model(inputs_embeds=torch.from_numpy(x)[None]).last_hidden_state[0] for x in embeds
            ]
            return [(hidden.double(), model.lm_head(hidden[-1]).double()) for hidden in states]

    exact = run()
    weight = model.model.language_model.get_submodule(module).weight
    weight.data = rounded(weight.data)
    pairs = list(zip(exact, run(), strict=True))
    kl = [
        float((torch.softmax(a, -1) * (torch.log_softmax(a, -1) - torch.log_softmax(b, -1))).sum())
        for (_, a), (_, b) in pairs
    ]
    cosines = [float(torch.cosine_similarity(a, b, dim=-1).mean()) for (a, _), (b, _) in pairs]
    return (
        float(np.mean(kl)),
        float(np.mean(cosines)),
        float(np.mean([a[1].argmax() == b[1].argmax() for a, b in pairs])),
    )


@pytest.mark.parametrize(
    ("layer", "module"),
    [("llm.layers.0.down", "layers.0.mlp.down_proj"), ("llm.layers.1.out", "layers.1.self_attn.o_proj")],
)
def test_cost_of_a_layer_is_that_of_the_whole_model_with_it_rounded(
    even_checkpoint: Path, result: SensitivityResult, layer: str, module: str
) -> None:
    (found,) = (row.cost for row in result.layers if row.layer == layer)
    divergence, cosine, same = by_hand(even_checkpoint, module)
    assert found.divergence == pytest.approx(divergence, rel=1e-3, abs=1e-6)
    assert 1 - found.cosine == pytest.approx(1 - cosine, rel=1e-2, abs=1e-6)
    assert found.same_first == same


def test_every_rounded_layer_has_a_row_and_bytes_by_hand(result: SensitivityResult) -> None:
    """qkv is 128 x 64: 4 bytes, or half a byte and 4 bytes for 32 of them."""
    assert [row.layer for row in result.layers] == NAMES
    assert all(row.cost.divergence > 0 and 0 < row.cost.cosine < 1 for row in result.layers)
    assert result.layers[0].extra_bytes == 128 * 64 * 4 - 128 * 64 // 2 - 128 * 64 // 32 * 4
    assert (result.prompts, result.data, result.precision, result.target) == (8, "world", "int4", "cpu")


def test_proposal_has_half_of_the_cost_with_the_highest_cost_per_byte(
    even_checkpoint: Path, result: SensitivityResult
) -> None:
    rows = sorted(result.layers, key=lambda row: (1 - row.cost.cosine) / row.extra_bytes, reverse=True)
    count = sum(row.proposed for row in rows)
    assert all(row.proposed for row in rows[:count])
    costs = [1 - row.cost.cosine for row in rows]
    assert sum(costs[:count]) >= 0.5 * sum(costs) > sum(costs[: count - 1])
    assert result.proposed.cosine > result.rounded.cosine
    assert result.extra_bytes == sum(row.extra_bytes for row in rows[:count])
    build = prepare(
        BuildRequest("", precision="int4", keep_precision=tuple(result.keep.split(","))), Source(even_checkpoint, "x")
    )
    assert set(build.kept) == {row.layer for row in rows[:count]}


def test_evidence_and_text_say_the_same(result: SensitivityResult, evidence: Path) -> None:
    document = json.loads(evidence.read_text(encoding="utf-8"))
    assert document["schema"] == "stc.sensitivity/1"
    assert [row["cost"]["divergence"] for row in document["layers"]] == [r.cost.divergence for r in result.layers]
    text = result_text(result)
    for row in result.layers:
        assert f"{row.cost.divergence:.6f}" in text
        assert f"{1 - row.cost.cosine:.6f}" in text
    assert f"--precision int4 --keep-precision '{result.keep}'" in text


def test_command_takes_a_checkpoint_and_prints_one_document(
    even_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.json"
    flags = ["--sensitivity", "--precision", "int8", "--out", str(out), "--json"]
    assert main(["calibrate", str(even_checkpoint), *flags]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == json.loads(out.read_text(encoding="utf-8"))
    assert f"evidence: {out}" in captured.err


def test_precision_that_rounds_nothing_is_refused(even_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='--precision is "fp32", which rounds no weights'):
        run_sensitivity(SensitivityRequest(str(even_checkpoint), precision="fp32", out=tmp_path / "x.json"), Silent())


def test_bundle_whose_checkpoint_is_not_known_asks_for_it(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "x.stc")
    with pytest.raises(UsageError, match='The bundle was built from "tiny", and a bundle does not hold') as caught:
        run_sensitivity(SensitivityRequest(str(bundle), out=tmp_path / "x.json"), Silent())
    assert caught.value.fix == "Give the checkpoint in place of the bundle."


# --- the vision transformer -------------------------------------------------------------------------------------------

VISION = [f"vision.layers.{i}.{name}" for i in range(3) for name in ("qvk", "out", "fc1", "fc2")]


@pytest.fixture(scope="module")
def of_vision(even_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> SensitivityResult:
    out = tmp_path_factory.mktemp("vision") / "x.json"
    return run_sensitivity(SensitivityRequest(str(even_checkpoint), "fp32,vit=int8", out=out), Silent())


def test_layers_of_the_vision_transformer_have_rows(of_vision: SensitivityResult) -> None:
    assert [row.layer for row in of_vision.layers] == VISION
    assert all(row.cost.features is not None and 0 < row.cost.features < 1 for row in of_vision.layers)
    assert all(0 < row.cost.cosine < 1 for row in of_vision.layers)
    assert of_vision.rounded.features is not None
    assert of_vision.rounded.features < min(row.cost.features or 0 for row in of_vision.layers)
    assert f"{1 - of_vision.rounded.features:.6f}" in result_text(of_vision)


def test_features_lose_what_the_graphs_of_a_bundle_lose(
    even_checkpoint: Path, even_bundle_int4: Path, of_vision: SensitivityResult, tmp_path: Path
) -> None:
    """ONNX Runtime's products of whole numbers, on the same frames, against the ViT in float32."""
    out = tmp_path / "x.stc"
    run_build(BuildRequest(str(even_checkpoint), out=out, precision="fp32,vit=int8"), Silent())
    build = prepare(BuildRequest(str(even_checkpoint), precision="fp32,vit=int8"), Source(even_checkpoint, "x"))
    frames = [frame for prompt in read_prompts(build, None) for frame in prompt.frames]

    def features(bundle: Path) -> list[Any]:
        off = replace(named_policies()["off"], memory=ALL_SLOTS.memory)
        with StreamSession.open(bundle, off) as stream:
            found = []
            for frame in frames:
                stream.reset()
                stream.push(frame, 0.0)
                found.append(stream.features.astype(np.float64))
            return found

    def cosine(x: Any, y: Any) -> float:
        return float(np.mean((x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)))

    exact, rounded = features(even_bundle_int4), features(out)
    lost = 1 - np.mean([cosine(x, y) for x, y in zip(exact, rounded, strict=True)])
    assert of_vision.rounded.features is not None
    assert 1 - of_vision.rounded.features == pytest.approx(lost, rel=0.05)


def test_roles_can_be_rounded_together(even_checkpoint: Path, tmp_path: Path) -> None:
    asked = SensitivityRequest(str(even_checkpoint), "fp32,vit=int8,llm=int4", out=tmp_path / "x.json")
    result = run_sensitivity(asked, Silent())
    assert [row.layer for row in result.layers] == [*VISION, *NAMES]
    assert [row.cost.features is None for row in result.layers] == [False] * len(VISION) + [True] * len(NAMES)
    assert result.rounded.cosine < min(row.cost.cosine for row in result.layers)


def test_scales_from_data_need_data(even_checkpoint: Path, tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "x.stc")
    manifest = read_manifest(bundle)
    other = replace(manifest, target="rtx", model=replace(manifest.model, name=str(even_checkpoint)))
    (bundle / "manifest.json").write_text(manifest_to_text(other), encoding="utf-8")
    with pytest.raises(UsageError, match="vit=int8 on rtx has scales that are chosen from data") as caught:
        run_sensitivity(SensitivityRequest(str(bundle), "fp16,vit=int8", out=tmp_path / "x.json"), Silent())
    assert caught.value.fix.startswith("Give a video, or a folder with videos")
