"""LLaVA-OneVision checkpoints laid out as the published ones are: the demo model, and random ones of any size."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stc_export.demo.tokenizer import END_OF_TEXT, IMAGE, TURN_END, VIDEO, token_ids, write_tokenizer
from stc_export.spec.dims import ModelDims, TextDims, VisionDims

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The trained checkpoint; its README.md is the model card.
DEMO_MODEL = Path(__file__).parent / "model"

#: One turn: role, images, videos, then the texts, each on a line of its own. Only assistants write answers, and
#: transformers wants those marked.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' ~ message['role'] ~ ' ' }}
    {%- for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}
    {%- for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}
    {%- for part in message['content'] if part['type'] == 'text' %}
        {%- if message['role'] == 'assistant' %}
            {%- generation %}{{ '\\n' ~ part['text'] }}{% endgeneration %}
        {%- else %}{{ '\\n' ~ part['text'] }}
        {%- endif %}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


@dataclass(frozen=True)
class CheckpointOptions:
    """What may differ between checkpoints of the same sizes.

    Attributes:
        seed: Seed of the weights.
        tied: Whether the LLM's output matrix is its embedding table.
        feature_layer: Vision layer whose output the LLM sees, counted from the end.
        original_format: Key names as published (``language_model.model.*``), or those of transformers' modules.
        max_shard_size: Largest weight file, as ``save_pretrained`` takes it.
    """

    seed: int = 0
    tied: bool = True
    feature_layer: int = -1
    original_format: bool = True
    max_shard_size: str = "5GB"


def demo_dims() -> ModelDims:
    """Return the sizes of the demo model: T = 144, M = 36, 3.6 million parameters."""
    return ModelDims(
        vision=VisionDims(image_size=96, patch_size=8, width=128, mlp_width=512, heads=4, layers=5),
        text=TextDims(
            width=192,
            mlp_width=512,
            heads=6,
            kv_heads=3,
            head_dim=32,
            layers=6,
            vocab=512,
            context=4096,
            rope_theta=1e4,
        ),
    )


def write_checkpoint(directory: Path, dims: ModelDims, options: CheckpointOptions) -> Path:
    """Write a LLaVA-OneVision checkpoint of any size with random weights; the same seed gives the same bytes.

    Its ``config.json`` holds ``"stc_trained": false``, so that nobody takes its answers for answers.

    Args:
        directory: Created if missing; files of the same names are replaced.
        dims: Sizes; the vocabulary must have room for the demo's tokenizer (501 tokens).
        options: Everything else.

    Returns:
        The directory.
    """
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    from stc_export.demo.weights import fill_weights

    with torch.random.fork_rng(devices=[]):  # transformers draws its own initial values first
        model = LlavaOnevisionForConditionalGeneration(model_config(dims, options))
    fill_weights(model, options.seed)
    model.config.stc_trained = False
    return save_checkpoint(model, directory, dims, options)


def save_checkpoint(
    model: Any, directory: Path, dims: ModelDims, options: CheckpointOptions = CheckpointOptions()
) -> Path:
    """Write a model with the demo's tokenizer, processor and chat template.

    Args:
        model: A ``LlavaOnevisionForConditionalGeneration`` of :func:`model_config`.
        directory: Created if missing; files of the same names are replaced.
        dims: Its sizes.
        options: How it is written.

    Returns:
        The directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.generation_config = _generation_config()
    with _quiet():
        model.save_pretrained(
            directory, max_shard_size=options.max_shard_size, save_original_format=options.original_format
        )
    _write_beside(directory, dims)
    return directory


def save_without_weights(directory: Path, dims: ModelDims, options: CheckpointOptions = CheckpointOptions()) -> None:
    """Write all but the weights of a checkpoint that says of itself that they are random and in float16.

    Args:
        directory: Created if missing; files of the same names are replaced.
        dims: Sizes.
        options: How it is laid out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = model_config(dims, options)
    config.architectures = ["LlavaOnevisionForConditionalGeneration"]
    config.dtype = "float16"
    config.stc_trained = False
    config.save_pretrained(directory)
    _generation_config().save_pretrained(directory)
    _write_beside(directory, dims)


def _generation_config() -> Any:
    from transformers import GenerationConfig

    ids = token_ids()
    return GenerationConfig(bos_token_id=ids[END_OF_TEXT], eos_token_id=ids[TURN_END], pad_token_id=ids[END_OF_TEXT])


def _write_beside(directory: Path, dims: ModelDims) -> None:
    write_tokenizer(directory, dims.text.context)
    _write_processor(directory, dims.vision)


def model_config(dims: ModelDims, options: CheckpointOptions = CheckpointOptions()) -> Any:
    """Return the ``LlavaOnevisionConfig`` of a model of these sizes that talks through the demo's tokenizer."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    vision, text, ids = dims.vision, dims.text, token_ids()
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_size=vision.width,
            intermediate_size=vision.mlp_width,
            num_attention_heads=vision.heads,
            num_hidden_layers=vision.layers,
            hidden_act="gelu_pytorch_tanh",
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=text.vocab,
            hidden_size=text.width,
            intermediate_size=text.mlp_width,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            head_dim=text.head_dim,
            max_position_embeddings=text.context,
            rope_parameters={"rope_type": "default", "rope_theta": text.rope_theta},
            tie_word_embeddings=options.tied,
            bos_token_id=ids[END_OF_TEXT],
            eos_token_id=ids[TURN_END],
        ),
        image_token_index=ids[IMAGE],
        video_token_index=ids[VIDEO],
        vision_feature_layer=options.feature_layer,
        vision_feature_select_strategy="full",
        multimodal_projector_bias=True,
        tie_word_embeddings=options.tied,
        image_grid_pinpoints=_grid_pinpoints(vision.image_size),
    )


def _grid_pinpoints(size: int) -> list[list[int]]:
    return [[size * rows, size * columns] for rows in range(1, 7) for columns in range(1, 7)]


def _write_processor(directory: Path, vision: VisionDims) -> None:
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"height": vision.image_size, "width": vision.image_size},
    }
    image = {
        **common,
        "do_pad": True,
        "image_grid_pinpoints": _grid_pinpoints(vision.image_size),
        "image_processor_type": "LlavaOnevisionImageProcessor",
    }
    processor = {
        "image_token": IMAGE,
        "num_image_tokens": vision.tokens,
        "processor_class": "LlavaOnevisionProcessor",
        "video_token": VIDEO,
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_select_strategy": "full",
    }
    _write_json(directory / "preprocessor_config.json", image)
    _write_json(
        directory / "video_preprocessor_config.json", {**common, "video_processor_type": "LlavaOnevisionVideoProcessor"}
    )
    _write_json(directory / "processor_config.json", processor)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
