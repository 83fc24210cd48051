"""What all tests share: settings that make numbers repeatable, and checkpoints written once per test run."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

from stc_export.pipeline.types import BuildRequest
from stc_export.world import splits
from tests import checkpoints
from tests.bundles import (
    bf16_request,
    built_once,
    kv_request,
    made_once,
    modern_bf16_request,
    modern_request,
    write_runnable,
)
from tests.device.machine import NEEDS, read_machine, reason_to_skip
from tests.videos import write_pictures

if TYPE_CHECKING:
    from pathlib import Path

# Read by libraries when they are imported, which is after this: few threads because the models are tiny and several
# test processes share the machine; no network and no progress bars.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# Timing never decides a test: a machine that is busy would fail examples that are right.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a device which is not here; reports say what each one needs."""
    for marker in NEEDS:
        if item.get_closest_marker(marker):
            item.user_properties.append(("needs", marker))
            reason = reason_to_skip(marker, read_machine())
            if reason:
                pytest.skip(reason)


@pytest.fixture(autouse=True)
def _same_seeds() -> None:
    """Start every test from the same random state, whatever ran before it; torch is not imported for this."""
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from the global state
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def checkpoint_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of this test run."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "checkpoints"
    root.mkdir(exist_ok=True)
    return root


@pytest.fixture(scope="session")
def medium_checkpoint(checkpoint_root: Path) -> Path:
    """See :func:`tests.checkpoints.write_medium`: T = 196, M = 49."""
    return checkpoints.shared_directory(checkpoint_root, "medium", checkpoints.write_medium)


@pytest.fixture(scope="session")
def tiny_checkpoint(checkpoint_root: Path) -> Path:
    """See :func:`tests.checkpoints.write_tiny`: T = 25, M = 9."""
    return checkpoints.shared_directory(checkpoint_root, "tiny", checkpoints.write_tiny)


@pytest.fixture(scope="session")
def untied_checkpoint(checkpoint_root: Path) -> Path:
    """See :func:`tests.checkpoints.write_untied`."""
    return checkpoints.shared_directory(checkpoint_root, "untied", checkpoints.write_untied)


@pytest.fixture(scope="session")
def sharded_checkpoint(checkpoint_root: Path) -> Path:
    """See :func:`tests.checkpoints.write_sharded`; same weights as ``tiny_checkpoint``."""
    return checkpoints.shared_directory(checkpoint_root, "sharded", checkpoints.write_sharded)


@pytest.fixture(scope="session")
def old_layout_checkpoint(checkpoint_root: Path) -> Path:
    """See :func:`tests.checkpoints.write_old_layout`; same weights as ``tiny_checkpoint``."""
    return checkpoints.shared_directory(checkpoint_root, "old_layout", checkpoints.write_old_layout)


@pytest.fixture(scope="session")
def new_layout_checkpoint(checkpoint_root: Path) -> Path:
    """See :func:`tests.checkpoints.write_new_layout`; same weights as ``tiny_checkpoint``."""
    return checkpoints.shared_directory(checkpoint_root, "new_layout", checkpoints.write_new_layout)


@pytest.fixture(scope="session")
def siglip_checkpoint(checkpoint_root: Path) -> Path:
    """See :func:`tests.checkpoints.write_siglip`: T = 729, M = 196."""
    return checkpoints.shared_directory(checkpoint_root, "siglip", checkpoints.write_siglip)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """fp32 bundle of the tiny checkpoint."""
    return built_once(tmp_path_factory, "tiny", lambda out: BuildRequest(str(tiny_checkpoint), out=out))


@pytest.fixture(scope="session")
def tiny_whole_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """fp32 bundle of the tiny checkpoint with all that ``build`` writes only when asked."""
    request = BuildRequest(str(tiny_checkpoint), metrics=("l1", "l2", "dot"), attention=True)
    return built_once(tmp_path_factory, "tiny-whole", lambda out: replace(request, out=out))


@pytest.fixture(scope="session")
def even_checkpoint(checkpoint_root: Path) -> Path:
    """See :func:`tests.checkpoints.write_even`: T = 25, M = 9, D = 64."""
    return checkpoints.shared_directory(checkpoint_root, "even", checkpoints.write_even)


@pytest.fixture(scope="session")
def even_bundle_int4(tmp_path_factory: pytest.TempPathFactory, even_checkpoint: Path) -> Path:
    """fp32 bundle of it with the LLM in int4."""
    request = BuildRequest(str(even_checkpoint), precision="int4")
    return built_once(tmp_path_factory, "even-int4", lambda out: replace(request, out=out))


def built_from_pictures(factory: pytest.TempPathFactory, checkpoint: Path, target: str, precision: str) -> Path:
    """Return a bundle whose ViT has scales from pictures of noise that moves."""
    folder = factory.mktemp("pictures")
    write_pictures(folder, 8)
    asked = f"fp16,vit={precision}"
    request = BuildRequest(str(checkpoint), target=target, precision=asked, flavour="base", calib=folder)
    return built_once(factory, f"tiny-calibrated-{precision}", lambda out: replace(request, out=out))


@pytest.fixture(scope="session")
def calibrated_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Bundle of the tiny checkpoint for TensorRT-RTX, the ViT in int8."""
    return built_from_pictures(tmp_path_factory, tiny_checkpoint, "rtx", "int8")


@pytest.fixture(scope="session")
def calibrated_bundle_fp8(tmp_path_factory: pytest.TempPathFactory, even_checkpoint: Path) -> Path:
    """Bundle of the other one, for TensorRT, the ViT in fp8."""
    return built_from_pictures(tmp_path_factory, even_checkpoint, "h200", "fp8")


@pytest.fixture(scope="session")
def tiny_bundle_fp16(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """fp16 bundle of the tiny checkpoint."""
    return built_once(
        tmp_path_factory, "tiny-fp16", lambda out: BuildRequest(str(tiny_checkpoint), out=out, precision="fp16")
    )


@pytest.fixture(scope="session")
def tiny_modern_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """fp32 bundle of the tiny checkpoint with graphs of flavour modern and a slot for every position of the model."""
    return built_once(tmp_path_factory, "tiny-modern", lambda out: modern_request(tiny_checkpoint, out, "fp32"))


@pytest.fixture(scope="session")
def tiny_modern_bundle_fp16(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The same in fp16."""
    return built_once(tmp_path_factory, "tiny-modern-fp16", lambda out: modern_request(tiny_checkpoint, out, "fp16"))


@pytest.fixture(scope="session")
def tiny_kv_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """fp32 bundle of the tiny checkpoint that keeps keys and values in 8 bits."""
    return built_once(tmp_path_factory, "tiny-kv", lambda out: kv_request(tiny_checkpoint, out, "base", "fp32"))


@pytest.fixture(scope="session")
def tiny_kv_modern_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The same of flavour modern."""
    return built_once(
        tmp_path_factory, "tiny-kv-modern", lambda out: kv_request(tiny_checkpoint, out, "modern", "fp32")
    )


@pytest.fixture(scope="session")
def tiny_kv_bundle_fp16(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The same of flavour base in fp16."""
    return built_once(tmp_path_factory, "tiny-kv-fp16", lambda out: kv_request(tiny_checkpoint, out, "base", "fp16"))


@pytest.fixture(scope="session")
def tiny_bundle_bf16(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """bf16 bundle of the tiny checkpoint. A CPU has no kernels for its graphs."""
    return built_once(tmp_path_factory, "tiny-bf16", lambda out: bf16_request(tiny_checkpoint, out))


@pytest.fixture(scope="session")
def tiny_modern_bundle_bf16(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The same of flavour modern."""
    return built_once(tmp_path_factory, "tiny-modern-bf16", lambda out: modern_bf16_request(tiny_checkpoint, out))


@pytest.fixture(scope="session")
def runnable_bundle_bf16(tmp_path_factory: pytest.TempPathFactory, tiny_bundle_bf16: Path) -> Path:
    """The bf16 bundle of the tiny checkpoint with stand-ins for its graphs, which a CPU can run."""
    return made_once(tmp_path_factory, "runnable-bf16", lambda out: write_runnable(tiny_bundle_bf16, out))


@pytest.fixture(scope="session")
def runnable_modern_bundle_bf16(tmp_path_factory: pytest.TempPathFactory, tiny_modern_bundle_bf16: Path) -> Path:
    """The same of flavour modern."""
    return made_once(tmp_path_factory, "runnable-modern-bf16", lambda out: write_runnable(tiny_modern_bundle_bf16, out))


@pytest.fixture(scope="session")
def siglip_modern_bundle_bf16(tmp_path_factory: pytest.TempPathFactory, siglip_checkpoint: Path) -> Path:
    """bf16 bundle of the checkpoint with SigLIP so400m layers, of flavour modern."""
    return built_once(tmp_path_factory, "siglip-modern-bf16", lambda out: modern_bf16_request(siglip_checkpoint, out))


@pytest.fixture(scope="session")
def untied_bundle(tmp_path_factory: pytest.TempPathFactory, untied_checkpoint: Path) -> Path:
    """fp32 bundle of the untied checkpoint, whose features are those of the last layer but one."""
    return built_once(tmp_path_factory, "untied", lambda out: BuildRequest(str(untied_checkpoint), out=out))


@pytest.fixture(scope="session")
def siglip_bundle(tmp_path_factory: pytest.TempPathFactory, siglip_checkpoint: Path) -> Path:
    """fp32 bundle of the checkpoint with SigLIP so400m layers."""
    return built_once(tmp_path_factory, "siglip", lambda out: BuildRequest(str(siglip_checkpoint), out=out))


@pytest.fixture(scope="session")
def siglip_modern_bundle_fp16(tmp_path_factory: pytest.TempPathFactory, siglip_checkpoint: Path) -> Path:
    """fp16 bundle of the checkpoint with SigLIP so400m layers, of flavour modern."""
    return built_once(
        tmp_path_factory, "siglip-modern-fp16", lambda out: modern_request(siglip_checkpoint, out, "fp16")
    )


@pytest.fixture(scope="session")
def quizzes() -> tuple[splits.Quiz, ...]:
    """The test set of the world."""
    return splits.test_set()


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 bundle of the demo model."""
    return built_once(tmp_path_factory, "demo", lambda out: BuildRequest("demo", out=out))
