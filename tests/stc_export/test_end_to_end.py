"""The commands as a user types them, on a real bundle; and what he reads when his input is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stc_export.cli.main import main
from tests.videos import write_moving_square, write_sound


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_square(tmp_path_factory.mktemp("clip") / "square.mp4")


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command that fails and return exit code, problem and fix; nothing may be on stdout."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    lines = captured.err.splitlines()
    problem = next(line for line in lines if line.startswith("error: ")).removeprefix("error: ")
    fix = next(line for line in lines if line.startswith("fix: ")).removeprefix("fix: ")
    return code, problem, fix


def test_run_on_a_video_reports_all_contract_keys(
    tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--ask", "What moves?", "--at", "1.0", "--ask", "And now?", "--fps", "8", "--max-tokens", "5"]
    report = run_json(capsys, "run", str(tiny_bundle), str(clip), *asked)
    assert {"answers", "frames", "tokens", "latency_ms", "memory_bytes", "bundle", "target", "policy"} <= set(report)
    first, second = report["answers"]
    assert (first["question"], first["at_s"]) == ("What moves?", 1.0)
    assert (second["question"], second["at_s"]) == ("And now?", pytest.approx(23 / 8))
    assert all(0 <= answer["tokens"] <= 5 and answer["ttft_ms"] >= 0 for answer in report["answers"])
    frames, tokens = report["frames"], report["tokens"]
    assert frames["total"] == 24 == frames["full"] + frames["selective"] + frames["skip"]
    assert tokens["visual_before"] == 24 * 9
    assert tokens["visual_kept"] == (frames["full"] + frames["selective"]) * 3  # 40 % of 9, rounded down
    for stage in ("gate", "vit_full", "vit_selective", "pruner", "prefill", "decode"):
        assert set(report["latency_ms"][stage]) == {"p50", "p95", "n"}
    assert report["latency_ms"]["gate"]["n"] == 24
    assert set(report["memory_bytes"]) == {"peak_rss", "feature_cache", "kv"}


def test_run_at_two_times_gives_the_answer_of_a_run_that_ends_there(
    tiny_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_moving_square(tmp_path / "short.mp4", frames=9)
    both = ["--ask", "What moves?", "--at", "1.0", "--ask", "What moves?", "--fps", "8"]
    early = run_json(capsys, "run", str(tiny_bundle), str(clip), *both)["answers"][0]["text"]
    alone = run_json(capsys, "run", str(tiny_bundle), str(short), "--ask", "What moves?", "--fps", "8")["answers"][0][
        "text"
    ]
    assert early == alone


def test_run_with_policy_paper_alternates_full_and_selective(
    tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(capsys, "run", str(tiny_bundle), str(clip), "--ask", "What?", "--fps", "8", "--policy", "paper")
    assert report["frames"] == {"total": 24, "full": 12, "selective": 12, "skip": 0}
    assert report["policy"]["cacher"]["selection"] == "per_layer"


def test_run_json_has_one_document_on_stdout_and_says_untrained_on_stderr(
    tmp_path: Path, tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tiny_bundle), str(clip), "--ask", "What?", "--json"]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert "The weights of this model are random: answers mean nothing." in captured.err


def test_inspect_real_bundle_is_whole(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, "inspect", str(tiny_bundle))
    assert report["ok"] is True
    shared = {row["path"]: row["graphs"] for row in report["weights"]}
    assert set(shared["graphs/vision.weights"]) == {"cacher_gate/default", "vit/gate", "vit/per_layer", "vit/shared"}


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_build_missing_checkpoint_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nowhere" / "deep" / "model"
    assert refusal(capsys, "build", str(path), "--out", str(tmp_path / "x.stc")) == (
        2,
        f'"{path}" is missing; expected a checkpoint directory, a hub id such as org/name, or demo.',
        "Give the folder that save_pretrained wrote.",
    )


def test_build_hub_id_without_network_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, problem, fix = refusal(capsys, "build", "some-org/some-model", "--out", str(tmp_path / "x.stc"))
    assert code == 2
    assert problem.startswith('"some-org/some-model" is not a directory here, and the hub did not deliver it (')
    assert fix == "Check the name and the network, or give a local checkpoint directory."


def test_build_corrupt_weights_names_the_file(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, problem, fix = refusal(capsys, "build", str(broken), "--out", str(tmp_path / "x.stc"))
    assert (code, fix) == (2, "It may be truncated: copy or fetch it again.")
    assert problem.startswith(f'"{weights}" is not a readable safetensors file (')
    assert not list(tmp_path.glob("*.stc"))
    assert not list(tmp_path.glob(".*"))


def test_build_unsupported_architecture_names_the_nearest(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    config["architectures"] = ["LlavaNextForConditionalGeneration"]
    (other / "config.json").write_text(json.dumps(config))
    assert refusal(capsys, "build", str(other), "--out", str(tmp_path / "x.stc")) == (
        2,
        '"other" is a LlavaNextForConditionalGeneration, which cannot be split yet.',
        'Did you mean "LlavaOnevisionForConditionalGeneration"? Known: LlavaOnevisionForConditionalGeneration.',
    )


def test_build_weights_of_another_config_names_tensor_and_shapes(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    width = config["vision_config"]["intermediate_size"]
    config["vision_config"]["intermediate_size"] = width + 8
    (other / "config.json").write_text(json.dumps(config))
    code, problem, fix = refusal(capsys, "build", str(other), "--out", str(tmp_path / "x.stc"))
    assert (code, fix) == (2, "Use the config.json that was saved with these weights.")
    assert f'Weights and config of "{other}" disagree: ' in problem
    assert f"is [{width}, " in problem
    assert f"the config calls for [{width + 8}, " in problem


def test_build_existing_output_needs_overwrite(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "there.stc"
    out.mkdir()
    assert refusal(capsys, "build", str(tiny_checkpoint), "--out", str(out)) == (
        2,
        f'"{out}" already exists.',
        "Choose another --out, or replace it with --overwrite.",
    )
    assert refusal(capsys, "build", str(tiny_checkpoint), "--out", str(out), "--overwrite") == (
        2,
        f'"{out}" exists and is not a bundle.',
        "Choose another --out; only bundles are replaced.",
    )


def test_run_on_a_target_that_is_not_here_says_what_is_missing(
    tmp_path: Path, tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "gpu.stc"
    shutil.copytree(tiny_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["target"] = "cuda"
    del manifest["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, problem, fix = refusal(capsys, "run", str(copy), str(clip), "--ask", "What?")
    assert code == 3
    assert "cuda" in problem.lower()
    assert 'pip install "stc-export[cuda]"' in fix


def test_run_on_a_folder_that_is_no_bundle(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "run", str(tmp_path), str(clip), "--ask", "What?") == (
        2,
        f'"{tmp_path}" is not a bundle: it has no manifest.json.',
        "Build one with stc-export build, or give the directory that it wrote.",
    )


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("missing", '"graphs/llm.onnx" is missing from "{bundle}".'),
        ("altered", '"graphs/llm.onnx" in "{bundle}" was altered.'),
        ("truncated", '"graphs/llm.onnx" in "{bundle}" is not the file of {size:,} bytes that was built.'),
        ("link", '"graphs/llm.onnx" in "{bundle}" is a link.'),
    ],
)
def test_run_on_a_damaged_bundle_names_the_file(
    damage: str, problem: str, tmp_path: Path, tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.stc"
    shutil.copytree(tiny_bundle, copy)
    graph = copy / "graphs" / "llm.onnx"
    data = graph.read_bytes()
    graph.unlink()
    if damage == "altered":
        graph.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncated":
        graph.write_bytes(data[:-1])
    elif damage == "link":
        graph.symlink_to(tiny_bundle / "graphs" / "llm.onnx")
    code, text, _ = refusal(capsys, "run", str(copy), str(clip), "--ask", "What?")
    assert (code, text) == (2, problem.format(bundle=copy, size=len(data)))


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"schema": "stc.bundle/2"}, 'has schema "stc.bundle/2", this version reads "stc.bundle/1".'),
        ({"surprise": 1}, 'document has the unknown key "surprise".'),
        (
            {"files": [{"path": "../../etc/passwd", "size_bytes": 1, "sha256": "0"}]},
            'lists the path "../../etc/passwd"',
        ),
    ],
)
def test_run_on_a_manifest_that_cannot_be_trusted_says_why(
    change: dict[str, Any],
    fragment: str,
    tmp_path: Path,
    tiny_bundle: Path,
    clip: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "copy.stc"
    copy.mkdir()
    manifest = json.loads((tiny_bundle / "manifest.json").read_text()) | change
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, problem, _ = refusal(capsys, "run", str(copy), str(clip), "--ask", "What?")
    assert code == 2
    assert fragment in problem


def test_run_on_videos_that_cannot_be_read(
    tmp_path: Path, tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, noise, truncated = tmp_path / "empty.mp4", tmp_path / "noise.mp4", tmp_path / "cut.mp4"
    empty.touch()
    noise.write_bytes(bytes(range(256)) * 40)
    truncated.write_bytes(clip.read_bytes()[:600])
    sound = write_sound(tmp_path / "sound.wav")
    for path in (tmp_path / "missing.mp4", empty, noise, truncated, sound, tmp_path):
        code, problem, fix = refusal(capsys, "run", str(tiny_bundle), str(path), "--ask", "What?")
        assert code == 2
        assert str(path) in problem
        assert fix


def test_run_with_questions_that_cannot_be_asked(
    tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, problem, _ = refusal(capsys, "run", str(tiny_bundle), str(clip), "--ask", "  ")
    assert code == 2
    assert "question" in problem.lower()
    code, problem, fix = refusal(capsys, "run", str(tiny_bundle), str(clip), "--ask", "word " * 4000)
    assert code == 2
    assert "tokens with its prompt" in problem
    assert fix == "Shorten the question, or raise memory.answer_tokens in the policy."


def test_run_with_policies_that_cannot_be_used(
    tmp_path: Path, tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("run", str(tiny_bundle), str(clip), "--ask", "What?", "--policy")
    small = tmp_path / "small.json"
    small.write_text('{"memory": {"kv_tokens": 3}, "pruner": {"method": "none", "keep": 1.0}}')
    code, problem, fix = refusal(capsys, *arguments, str(small))
    assert code == 4
    assert "The memory holds 3 tokens (memory.kv_tokens), but the prompt" in problem
    assert "Set memory.kv_tokens to at least" in fix
    unknown = tmp_path / "unknown.json"
    unknown.write_text('{"pruner": {"keap": 0.5}}')
    code, problem, _ = refusal(capsys, *arguments, str(unknown))
    assert code == 2
    assert 'pruner has the unknown key "keap". Did you mean "keep"?' in problem
    method = tmp_path / "method.json"
    method.write_text('{"pruner": {"method": "stc_gausian"}}')
    code, problem, _ = refusal(capsys, *arguments, str(method))
    assert code == 2
    assert 'no pruner graph "stc_gausian"' in problem
    code, problem, fix = refusal(capsys, *arguments, "papper")
    assert (code, fix) == (2, 'Did you mean "paper"? Known: adaptive, fast, paper, off.')
