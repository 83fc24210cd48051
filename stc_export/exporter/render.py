"""Child process that takes a chat template apart: ``Template`` as JSON on stdin, ``Rendered`` on stdout.

The template is rendered once, in Jinja's sandbox, with stand-ins for the question and the answer.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stc_export.exporter.template import (
    MAX_BYTES,
    MAX_SECONDS,
    QUESTION,
    Rendered,
    Split,
    Template,
    TemplateError,
)
from stc_export.spec import codec

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser

MAX_RENDERED_CHARS = 256 * 1024

_ANSWER = "StcAnswerGoesHere"


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant says, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as a set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def split_template(template: Template) -> Split:
    """Render a template with stand-ins for question and answer, and take it apart.

    Raises:
        TemplateError: It cannot be used.
    """
    try:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.globals["raise_exception"] = _raise_exception
        compiled = environment.from_string(template.source)
    except Exception as error:  # Jinja's own errors, and those of Python's compiler
        raise TemplateError(str(error)[:120] or type(error).__name__) from error
    try:
        return _split_rendering(compiled, template, as_list=True)
    except TemplateError as error:
        first = error
    try:  # made for text-only models: the video goes into the text
        return _split_rendering(compiled, template, as_list=False)
    except TemplateError as error:
        raise TemplateError(f"{first}, and with the video in the text {error}") from error


def _split_rendering(compiled: jinja2.Template, template: Template, *, as_list: bool) -> Split:
    user = _message("user", QUESTION, template.video, as_list=as_list)
    before, after = _around_video(_render(compiled, [user], template), template.video)
    if after.count(QUESTION) != 1 or QUESTION in before:
        raise TemplateError("it has no place for a question after the video")
    try:
        answer = _message("assistant", _ANSWER, None, as_list=as_list)
        turns = _render(compiled, [user, answer, user], template).split(_ANSWER)
        next_turn = _around_video(turns[1], template.video)[0] if len(turns) == 2 else None
    except TemplateError:  # made for one turn only
        next_turn = None
    if next_turn is not None and QUESTION in next_turn:
        next_turn = None
    return Split(before, after, next_turn)


def _message(role: str, text: str, video: str | None, *, as_list: bool) -> dict[str, Any]:
    if as_list:
        return {"role": role, "content": [*([{"type": "video"}] if video else []), {"type": "text", "text": text}]}
    return {"role": role, "content": f"{video}\n{text}" if video else text}


def _around_video(text: str, video: str) -> tuple[str, str]:
    if text.count(video) != 1:
        raise TemplateError(f'it writes "{video}" {text.count(video)} times for one video')
    before, _, after = text.partition(video)
    return before, after


def _render(compiled: jinja2.Template, messages: list[dict[str, Any]], template: Template) -> str:
    stream = compiled.generate(
        messages=messages, tools=None, documents=None, add_generation_prompt=True, **dict(template.variables)
    )
    text = ""
    try:
        while len(text) <= MAX_RENDERED_CHARS and (part := next(stream, None)) is not None:
            text += part
        text.encode("utf-8")
    except Exception as error:  # a template can cause any error
        raise TemplateError(str(error)[:120] or type(error).__name__) from error
    if len(text) > MAX_RENDERED_CHARS:
        raise TemplateError(f"it writes more than {MAX_RENDERED_CHARS} characters")
    return text


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _limit() -> None:
    seconds = MAX_SECONDS + math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))


def _rendered(text: str) -> Rendered:
    try:
        return Rendered(split=split_template(codec.from_json(Template, text)))
    except (TemplateError, codec.DecodeError) as error:
        return Rendered(problem=str(error).encode(errors="replace").decode())


if __name__ == "__main__":
    _limit()
    sys.stdout.buffer.write(codec.to_json(_rendered(sys.stdin.buffer.read().decode())).encode())
