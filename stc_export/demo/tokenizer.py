"""The demo's tokenizer: byte-level BPE built like Qwen2's, small enough to be trained while it is written."""

from __future__ import annotations

import json
from itertools import cycle
from typing import TYPE_CHECKING, Any

from stc_export.world.questions import LETTERS, TEMPLATES

if TYPE_CHECKING:
    from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
IMAGE = "<image>"
VIDEO = "<video>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, IMAGE, VIDEO)

#: Merges learned from the text below, on top of the 256 bytes.
MERGES = 240

#: How often the questions of the world are repeated beside the text below, so that each of their words is one token.
_WEIGHT = 20

#: How Qwen2 splits text before BPE: contractions, words, single digits, punctuation, white space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_TEXT = """\
user assistant system
What is on the table? There is a red cup on the table, next to a blue book.
What is the person doing? The person is walking from the left side of the room to the right side.
How many people are in the video? There are two people in the video. One of them is standing at the door.
Is the door open or closed? The door is open. It was closed at the start of the video.
What color is the ball? The ball is green. The ball is moving to the left, then it stops and does not move.
Where is the dog? The dog is sitting in front of the window. A white bird is flying above the trees.
What happened a moment ago? A car has passed the house, and a child on a bicycle has followed it.
Does anything change in the scene? No, nothing changes. The camera is fixed and the street is empty.
Describe what you see in one sentence. I see a small square that moves over a dark background.
Which shape appears first: the circle, the square or the triangle? The yellow circle appears first.
When does the light turn on? The light turns on after about ten seconds and stays on until the end.
"""


def build_tokenizer() -> Any:
    """Train the tokenizer; the same library version gives the same tokenizer each time.

    Returns:
        A ``tokenizers.Tokenizer`` with ids 0 to 255 for the bytes, then the merges, then :data:`SPECIAL_TOKENS`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + MERGES, special_tokens=[], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT.splitlines(keepends=True) + _WEIGHT * world_lines(), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def world_lines() -> list[str]:
    """Return every question of the world with all its answers as options, between the names of the roles."""
    return [
        f"user \n{question}\n{options}\nassistant\n"
        for template in TEMPLATES
        for question in map(template.text.format, template.subjects)
        for options in [" ".join(f"{a}. {value}" for a, value in zip(cycle(LETTERS), template.values, strict=False))]
    ]


def token_ids() -> dict[str, int]:
    """Return the id of each of :data:`SPECIAL_TOKENS`."""
    return {text: 256 + MERGES + place for place, text in enumerate(SPECIAL_TOKENS)}


def write_tokenizer(directory: Path, context: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
        directory: Where they go.
        context: Longest prompt in tokens, as stated to users of the tokenizer.
    """
    config = {
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "errors": "replace",
        "extra_special_tokens": {"image_token": IMAGE, "video_token": VIDEO},
        "image_token": IMAGE,
        "model_max_length": context,
        "pad_token": END_OF_TEXT,
        "processor_class": "LlavaOnevisionProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "video_token": VIDEO,
    }
    (directory / "tokenizer.json").write_text(build_tokenizer().to_str(pretty=True) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
