"""The LLM of a bundle in onnxruntime-genai, over the same weights: its own graph, its own loop."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from original import open_original

from stc_export.demo.tokenizer import write_tokenizer
from stc_export.spec.dims import ModelDims

PACKAGE = "onnxruntime_genai"


def installed() -> bool:
    """Whether the package is here."""
    return find_spec(PACKAGE) is not None


def exported(bundle: Path, dims: ModelDims) -> Path:
    """Return the folder with its graph of the bundle's LLM in fp32, made by its own builder once."""
    out = bundle.with_suffix(".genai")
    if out.exists():
        return out
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        checkpoint, partial = Path(folder) / "checkpoint", Path(folder) / "genai"
        _write_llm(bundle, dims, checkpoint)
        builder = Path(str(_location())) / "models" / "builder.py"
        flags = ["-i", checkpoint, "-o", partial, "-p", "fp32", "-e", "cpu", "-c", Path(folder) / "cache"]
        subprocess.run([sys.executable, builder, *flags], check=True, stdout=subprocess.DEVNULL)
        shutil.move(partial, out)
    return out


def _location() -> str:
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.submodule_search_locations is not None
    return found.submodule_search_locations[0]


def _write_llm(bundle: Path, dims: ModelDims, folder: Path) -> None:
    """Write the LLM alone, as the checkpoint of a Qwen2."""
    import torch
    from transformers import Qwen2ForCausalLM

    language = open_original(bundle, dims).language_model
    with torch.device("meta"):
        model = Qwen2ForCausalLM(language.config)
    model.model = language
    model.tie_weights()
    model.save_pretrained(folder)
    write_tokenizer(folder, dims.text.context)


class GenaiLlm:
    """A conversation with the LLM.

    Args:
        folder: From :func:`exported`.
        room: Most tokens of the conversation.
        threads: Threads inside an operator.
    """

    def __init__(self, folder: Path, room: int, threads: int) -> None:
        import onnxruntime_genai as genai

        config = genai.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self._model = genai.Model(config)
        params = genai.GeneratorParams(self._model)
        # At least so many tokens: random weights may choose the one that ends an answer.
        params.set_search_options(max_length=room, min_length=room, do_sample=False)
        self._generator: Any = genai.Generator(self._model, params)

    def read(self, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        """Run tokens of the prompt; returns the logits [V] of the last."""
        self._generator.append_tokens(np.array([tokens], np.int32))
        return np.asarray(self._generator.get_logits()).reshape(-1)

    def write(self) -> None:
        """Generate one more token."""
        self._generator.generate_next_token()
