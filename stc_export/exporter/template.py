"""Take a chat template apart in a child process.

A template is a program that others wrote. Jinja's sandbox keeps it from reaching anything, but not from running for
ever or from filling the memory, so it runs where both have an end.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass

from stc_export.spec import codec
from stc_export.spec.child import module_command

#: Stands for the question in rendered text.
QUESTION = "StcQuestionGoesHere"
#: A template gets no more time of the processor, and no more memory; ordinary ones take some milliseconds.
MAX_SECONDS = 2
MAX_CHARS = 256 * 1024
MAX_BYTES = 1 << 30

WORKER = module_command("stc_export.exporter.render")


@dataclass(frozen=True)
class Template:
    """A template and what it is rendered with.

    Attributes:
        source: Its text.
        variables: Names and values of special tokens.
        video: The placeholder that stands for the video in rendered text.
    """

    source: str
    variables: tuple[tuple[str, str], ...]
    video: str


@dataclass(frozen=True)
class Split:
    """A rendered template, taken apart.

    Attributes:
        before_video: Text before the video.
        after_video: Text after it, with :data:`QUESTION` in it once.
        next_turn: What comes between an answer and the next video; ``None`` if the template is made for one turn only.
    """

    before_video: str
    after_video: str
    next_turn: str | None


@dataclass(frozen=True)
class Rendered:
    """What the child says: a result, or why there is none, as part of a sentence."""

    split: Split | None = None
    problem: str | None = None


class TemplateError(Exception):
    """Why a template cannot be used, as part of a sentence."""


@functools.lru_cache(maxsize=8)  # a model is planned for many targets, and each child takes a while to start
def split_isolated(template: Template) -> Split:
    """Take a template apart.

    Raises:
        TemplateError: It cannot be used.
    """
    if len(template.source) > MAX_CHARS:
        raise TemplateError(f"it has {len(template.source)} characters, more than {MAX_CHARS}")
    ended = subprocess.run(  # noqa: S603 - our own module
        WORKER, input=codec.to_json(template).encode(errors="replace"), capture_output=True, check=False
    )
    if ended.returncode < 0:  # a signal
        raise TemplateError(f"it did not come to an end within {MAX_SECONDS} seconds and {MAX_BYTES >> 20} MiB")
    if ended.returncode:
        words = ended.stderr.decode(errors="replace").split("\n")
        raise TemplateError(" ".join(words[-2:]).strip()[:120])
    said = codec.from_json(Rendered, ended.stdout.decode())
    if said.split is None:
        raise TemplateError(said.problem or "it cannot be rendered")
    return said.split
