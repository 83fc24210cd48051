"""Model families: how an architecture is split into graphs. A new one is a package and a row of :data:`FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stc_export.families.base import Family
from stc_export.families.llava_onevision.model import read_model
from stc_export.families.llava_onevision.weights import canonical
from stc_export.spec.errors import CheckpointError, UnsupportedError, nearest

#: Characters of a foreign name that an error shows.
_SHOWN = 80

FAMILIES: tuple[Family, ...] = (
    Family(
        name="llava_onevision",
        architectures=("LlavaOnevisionForConditionalGeneration",),
        canonical=canonical,
        read=read_model,
        chat_template=(
            "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
            "{% for part in message['content'] %}{% if part['type'] == 'video' %}<video>\n"
            "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
        stop_token="<|im_end|>",  # noqa: S106 - not a password
    ),
)


def find_family(config: Mapping[str, Any], source: str) -> Family:
    """Return the family that splits a checkpoint; ``source`` names it in errors.

    Raises:
        CheckpointError: The config names no architecture.
        UnsupportedError: No family splits it.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(
            f'The config of "{source}" names no architecture.', "Save the checkpoint with save_pretrained."
        )
    supported = [a for family in FAMILIES for a in family.architectures]
    for family in FAMILIES:
        if names[0] in family.architectures:
            return family
    shown = names[0][:_SHOWN]
    raise UnsupportedError(f'"{source}" is a {shown}, which cannot be split yet.', nearest(shown, supported))
