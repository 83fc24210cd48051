"""Weight files against the tensors of the checkpoint, joined and permuted here with torch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stc_export.exporter import weights as weights_module
from stc_export.exporter.checkpoint import Checkpoint, read_checkpoint
from stc_export.exporter.graphs import GraphForm
from stc_export.exporter.preprocess import read_preprocessing
from stc_export.exporter.weight_output import ALIGNMENT
from stc_export.exporter.weights import StoredTensor, WeightRecipe, check_recipes, layout, write_weights
from stc_export.families import find_family
from stc_export.families.llava_onevision.weights import canonical
from stc_export.spec.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stc_export.exporter.graphs import SplitModel
    from stc_export.spec.manifest import DType

NORMS = ("norm", "inv_freq", "scale", "offset")
#: Pixels up to 1 are pooled along two axes by weights that were rounded: at most two roundings.
POOLED = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 2 * 2.0**-8}


def split(directory: Path, dtype: DType) -> tuple[Checkpoint, SplitModel]:
    checkpoint = read_checkpoint(directory, canonical)
    model = find_family(checkpoint.config, "x").read(checkpoint.config, "x")
    return checkpoint, model.split(
        GraphForm("base", dtype, 64), read_preprocessing(directory, model.dims.vision.image_size)
    )


def write_all(directory: Path, dtype: DType, out: Path) -> tuple[SplitModel, dict[str, dict[str, StoredTensor]]]:
    """Write all weight files to a folder and return where each tensor lies."""
    checkpoint, model = split(directory, dtype)
    out.mkdir(exist_ok=True)
    for file, recipes in model.weights.items():
        check_recipes(checkpoint, recipes)
        write_weights(checkpoint, recipes, out / file, lambda _bytes: None)
    return model, {file: dict(layout(file, recipes)) for file, recipes in model.weights.items()}


def stored(folder: Path, place: StoredTensor) -> torch.Tensor:
    data = (folder / place.file).read_bytes()[place.offset : place.offset + place.length]
    return torch.frombuffer(bytearray(data), dtype=getattr(torch, place.dtype)).reshape(place.shape)


def _short(key: str) -> str:
    for prefix in ("language_model.model.", "vision_tower.", "vision_model."):
        key = key.removeprefix(prefix)
    return key


def expected_tensors(directory: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every stored tensor that comes from the checkpoint, made by hand from the published layout of a tied model."""
    t = {_short(key): value.float() for key, value in load_file(directory / "model.safetensors").items()}
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    vision = {
        "projection.weight": t["embeddings.patch_embedding.weight"].permute(0, 2, 3, 1),
        "projection.bias": t["embeddings.patch_embedding.bias"],
        "position": t["embeddings.position_embedding.weight"],
    }
    for i in range(config["vision_config"]["num_hidden_layers"]):
        old, new = f"encoder.layers.{i}", f"layers.{i}"
        for kind in ("weight", "bias"):
            q, k, v = (t[f"{old}.self_attn.{p}_proj.{kind}"] for p in "qkv")
            vision[f"{new}.qvk.{kind}"] = torch.cat([q, v, k])
            vision[f"{new}.qv.{kind}"], vision[f"{new}.k.{kind}"] = torch.cat([q, v]), k
            vision[f"{new}.out.{kind}"] = t[f"{old}.self_attn.out_proj.{kind}"]
            vision[f"{new}.fc1.{kind}"], vision[f"{new}.fc2.{kind}"] = (
                t[f"{old}.mlp.{fc}.{kind}"] for fc in ("fc1", "fc2")
            )
            vision[f"{new}.norm1.{kind}"] = t[f"{old}.layer_norm1.{kind}"]
            vision[f"{new}.norm2.{kind}"] = t[f"{old}.layer_norm2.{kind}"]
    llm = {"norm.weight": t["norm.weight"]}
    for i in range(config["text_config"]["num_hidden_layers"]):
        new, attention, mlp = f"layers.{i}", f"layers.{i}.self_attn", f"layers.{i}.mlp"
        for kind in ("weight", "bias"):
            llm[f"{new}.qkv.{kind}"] = torch.cat([t[f"{attention}.{p}_proj.{kind}"] for p in "qkv"])
        llm[f"{new}.out.weight"] = t[f"{attention}.o_proj.weight"]
        llm[f"{new}.gate_up.weight"] = torch.cat([t[f"{mlp}.gate_proj.weight"], t[f"{mlp}.up_proj.weight"]])
        llm[f"{new}.down.weight"] = t[f"{mlp}.down_proj.weight"]
        llm[f"{new}.norm1.weight"] = t[f"layers.{i}.input_layernorm.weight"]
        llm[f"{new}.norm2.weight"] = t[f"layers.{i}.post_attention_layernorm.weight"]
    names = [f"linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]
    return {
        "vision.weights": vision,
        "projector.weights": {name: t[f"multi_modal_projector.{name}"] for name in names},
        "llm.weights": llm,
        "embed.weights": {
            "embed": t["embed_tokens.weight"],
            "head.weight": t["embed_tokens.weight"],
            "newline": t["image_newline"],
        },
    }


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_files_hold_the_tensors_of_the_checkpoint_in_the_order_of_the_graphs(
    tiny_checkpoint: Path, tmp_path: Path, dtype: DType
) -> None:
    _, places = write_all(tiny_checkpoint, dtype, tmp_path)
    for file, tensors in expected_tensors(tiny_checkpoint).items():
        for name, tensor in tensors.items():
            place = places[file].pop(name)
            kept_wide = name.partition(".")[2].startswith("norm") or any(n in name for n in NORMS)
            assert place.dtype == ("float32" if kept_wide else dtype), name
            assert torch.equal(stored(tmp_path, place), tensor.to(getattr(torch, place.dtype))), name
    constants = {name: stored(tmp_path, place) for names in places.values() for name, place in names.items()}
    assert set(constants) == {"scale", "offset", "inv_freq", "pooling"}
    torch.testing.assert_close(constants["scale"], torch.full((14 * 14 * 3,), 1 / 127.5))
    torch.testing.assert_close(constants["offset"], torch.full((14 * 14 * 3,), -1.0))
    torch.testing.assert_close(constants["inv_freq"], 1e6 ** -(torch.arange(0, 16, 2) / 16))
    image = torch.rand(5, 5)
    resized = torch.nn.functional.interpolate(image[None, None], size=(3, 3), mode="bilinear")[0, 0]
    pooling = constants["pooling"].float()
    torch.testing.assert_close(pooling @ image @ pooling.T, resized, rtol=0, atol=POOLED[dtype])


@pytest.mark.parametrize("fixture", ["tiny_checkpoint", "untied_checkpoint"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_used_tensor_is_stored_once_and_nothing_overlaps(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, dtype: DType
) -> None:
    directory = request.getfixturevalue(fixture)
    checkpoint, model = split(directory, dtype)
    recipes = [recipe for rows in model.weights.values() for recipe in rows]
    uses = Counter(name for recipe in recipes for name in recipe.sources)
    assert set(uses.values()) == {1}
    unused = {name for name in checkpoint.tensors if name not in uses}
    last_layer = {name for name in unused if name.startswith("vision_tower.encoder.layers.2.")}
    assert unused - last_layer == {f"vision_tower.post_layernorm.{kind}" for kind in ("weight", "bias")}
    assert bool(last_layer) == (fixture == "untied_checkpoint")  # it takes the features of the layer before
    elements = sum(checkpoint.info(name).elements for name in uses)
    assert elements == sum(int(np.prod(r.shape)) for r in recipes if r.sources)
    for file, rows in model.weights.items():
        places = layout(file, rows)
        parts = {part for recipe in rows for part in recipe.parts or ()}
        end = 0
        for place in sorted((p for n, p in places.items() if n not in parts), key=lambda p: p.offset):
            assert place.offset >= end
            assert place.offset % ALIGNMENT == 0
            end = place.offset + place.length
        for recipe in rows:
            whole = places[recipe.name]
            for part in recipe.parts or ():
                assert whole.offset <= places[part].offset
                assert places[part].offset + places[part].length <= whole.offset + whole.length


def test_file_is_padded_and_its_size_and_digest_are_those_reported(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint, model = split(tiny_checkpoint, "float32")
    for file, recipes in model.weights.items():
        amounts: list[int] = []
        written = write_weights(checkpoint, recipes, tmp_path / file, amounts.append)
        data = (tmp_path / file).read_bytes()
        assert (written.path, written.size_bytes) == (tmp_path / file, len(data))
        assert written.sha256 == hashlib.sha256(data).hexdigest()
        assert len(data) == sum(-(-recipe.nbytes // ALIGNMENT) * ALIGNMENT for recipe in recipes)
        assert sum(amounts) == sum(recipe.nbytes for recipe in recipes)


def test_other_layouts_of_the_same_checkpoint_give_the_same_files(
    tiny_checkpoint: Path,
    sharded_checkpoint: Path,
    old_layout_checkpoint: Path,
    new_layout_checkpoint: Path,
    tmp_path: Path,
) -> None:
    digests = []
    for index, directory in enumerate(
        (tiny_checkpoint, sharded_checkpoint, old_layout_checkpoint, new_layout_checkpoint)
    ):
        out = tmp_path / str(index)
        write_all(directory, "float16", out)
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.weights")})
    assert digests == [digests[0]] * 4
    assert set(digests[0]) == {"vision.weights", "projector.weights", "llm.weights", "embed.weights"}


# --- recipes one by one ----------------------------------------------------------------------------------------------


def checkpoint_of(directory: Path, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}", encoding="utf-8")
    save_file(dict(tensors), directory / "model.safetensors")
    return read_checkpoint(directory, lambda key: key)


def write_one(checkpoint: Checkpoint, recipe: WeightRecipe, path: Path) -> torch.Tensor:
    check_recipes(checkpoint, (recipe,))
    path.unlink(missing_ok=True)
    write_weights(checkpoint, (recipe,), path, lambda _bytes: None)
    return stored(path.parent, layout(path.name, (recipe,))[recipe.name])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 7), st.integers(4, 200))
def test_concatenation_in_blocks_of_any_size_equals_torch(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], width: int, block_bytes: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "concatenation"
    tensors = {f"t{i}": torch.randn(n, width).to(torch.bfloat16) for i, n in enumerate(rows)}
    recipe = WeightRecipe("w", "float32", (sum(rows), width), tuple(tensors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_module, "_BLOCK_BYTES", block_bytes)
        found = write_one(checkpoint_of(root, tensors), recipe, root / "w.weights")
    assert torch.equal(found, torch.cat(list(tensors.values())).float())


def test_checkpoint_that_disagrees_with_its_config_is_refused_before_a_weight_is_read(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, model = split(tiny_checkpoint, "float32")
    monkeypatch.setattr(Checkpoint, "read", None)
    monkeypatch.setattr(Checkpoint, "read_blocks", None)
    (qkv,) = (recipe for recipe in model.weights["llm.weights"] if recipe.name == "layers.0.qkv.weight")
    with pytest.raises(CheckpointError) as caught:
        check_recipes(checkpoint, (replace(qkv, shape=(160, 48)),))
    names = " + ".join(f"language_model.model.layers.0.self_attn.{p}_proj.weight" for p in "qkv")
    assert caught.value.problem == (
        f'Weights and config of "{tiny_checkpoint}" disagree: {names} is [128, 48], the config calls for [160, 48].'
    )
    assert caught.value.fix == "Use the config.json that was saved with these weights."


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (2, 3, 1)), ((2, 3), (1, 3)), ((), (4, 3)), ((12,), ())])
def test_parts_that_do_not_join_to_the_shape_are_refused(tmp_path: Path, shapes: tuple[tuple[int, ...], ...]) -> None:
    checkpoint = checkpoint_of(tmp_path / "m", {f"t{i}": torch.zeros(shape) for i, shape in enumerate(shapes)})
    with pytest.raises(CheckpointError, match=r"disagree: t0 \+ t1 is \["):
        check_recipes(checkpoint, (WeightRecipe("w", "float32", (4, 3), ("t0", "t1")),))


def test_source_that_is_missing_is_named(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "m", {"a": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r'lack "b", which their config calls for\.'):
        check_recipes(checkpoint, (WeightRecipe("w", "float32", (4,), ("a", "b")),))


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (70000.0, "float16", "overflows as float16"),
        (-1e30, "float16", "overflows as float16"),
        (float("nan"), "float16", "holds NaN or infinity as float16"),
        (float("nan"), "float32", "holds NaN or infinity as float32"),
        (float("inf"), "float32", "holds NaN or infinity as float32"),
        (3.4e38, "bfloat16", "overflows as bfloat16"),
        (float("nan"), "bfloat16", "holds NaN or infinity as bfloat16"),
    ],
)
@pytest.mark.parametrize("permute", [(), (1, 0)])
def test_value_that_is_not_finite_when_stored_is_refused(
    tmp_path: Path, value: float, dtype: DType, reason: str, permute: tuple[int, ...]
) -> None:
    tensor = torch.zeros(50, 3)
    tensor[49, 2] = value
    shape = (3, 50) if permute else (50, 3)
    recipe = WeightRecipe("w", dtype, shape, ("layer.weight",), permute=permute)
    with pytest.raises(CheckpointError) as caught:
        write_one(checkpoint_of(tmp_path / "m", {"layer.weight": tensor}), recipe, tmp_path / "w.weights")
    assert caught.value.problem == f'"layer.weight" {reason}.'
    assert caught.value.fix == "Build with --precision fp32, or repair the checkpoint."


def test_largest_half_is_stored(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "m", {"a": torch.tensor([65504.0, -65504.0, 1e-8])})
    found = write_one(checkpoint, WeightRecipe("w", "float16", (3,), ("a",)), tmp_path / "w.weights")
    assert found.tolist() == [65504.0, -65504.0, 0.0]


@pytest.mark.parametrize("permute", [(), (1, 0)])
def test_bfloat16_of_the_checkpoint_is_copied_byte_for_byte_and_never_widened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, permute: tuple[int, ...]
) -> None:
    """Every finite bfloat16, the smallest ones and minus zero included."""
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    finite = torch.from_numpy(bits[(bits & 0x7F80) != 0x7F80].reshape(-1, 2))
    tensor = finite.view(torch.bfloat16)
    checkpoint = checkpoint_of(tmp_path / "m", {"a": tensor})
    monkeypatch.setattr(torch.Tensor, "float", None)
    shape = tuple(tensor.permute(permute).shape) if permute else tuple(tensor.shape)
    found = write_one(checkpoint, WeightRecipe("w", "bfloat16", shape, ("a",), permute=permute), tmp_path / "w.weights")
    expected = finite.permute(permute) if permute else finite
    assert torch.equal(found.view(torch.uint16), expected)


def test_weights_that_cannot_be_read_any_more_are_a_checkpoint_error(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "m", {"a": torch.zeros(4)})
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        write_one(checkpoint, WeightRecipe("w", "float32", (4,), ("a",)), tmp_path / "w.weights")


def test_existing_file_is_never_written_over(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path / "m", {"a": torch.zeros(4)})
    (tmp_path / "w.weights").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_weights(
            checkpoint, (WeightRecipe("w", "float32", (4,), ("a",)),), tmp_path / "w.weights", lambda _n: None
        )
    assert (tmp_path / "w.weights").read_bytes() == b"mine"


#: Streams 400 MB of float32 and prints how far anonymous memory rose above that before in bytes,
#: and the number of blocks. Pages of the mapped checkpoint are not anonymous: the system drops them when it needs to.
STREAM = """
import sys
from pathlib import Path
import torch
from stc_export.exporter.checkpoint import read_checkpoint
from stc_export.exporter.weights import WeightRecipe, write_weights

def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

root = Path(sys.argv[1])
torch.zeros(1000).to(torch.float16)
checkpoint = read_checkpoint(root, lambda key: key)
recipe = WeightRecipe("w", "float16", (100000, 1000), ("a", "b"))
before, rise = anonymous(), []
write_weights(checkpoint, (recipe,), root / "w.weights", lambda _bytes: rise.append(anonymous() - before))
print(max(rise), len(rise))
"""


def sparse_checkpoint(directory: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """Write a checkpoint of zeros that takes no room on disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + shape[0] * shape[1] * 4
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (directory / "config.json").write_text("{}", encoding="utf-8")
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_streaming_a_large_checkpoint_keeps_a_few_blocks_in_memory(tmp_path: Path) -> None:
    sparse_checkpoint(tmp_path, {"a": (25000, 1000), "b": (75000, 1000)})
    result = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    rise, blocks = map(int, result.stdout.split())
    assert (tmp_path / "w.weights").stat().st_size == -(-100000 * 1000 * 2 // ALIGNMENT) * ALIGNMENT
    assert blocks >= 5
    assert rise < 200 * 1024 * 1024
