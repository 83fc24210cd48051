"""From a checkpoint's chat template and tokenizer files to what a bundle keeps of them.

The template is rendered once (:mod:`stc_export.exporter.template`) and taken apart; the runtime has no template engine.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from stc_export.exporter.template import QUESTION, Template, TemplateError, split_isolated
from stc_export.spec.errors import CheckpointError
from stc_export.spec.files import read_bytes, read_text
from stc_export.spec.manifest import Piece, PromptSpec

if TYPE_CHECKING:
    from pathlib import Path

#: The largest tokenizers have some 35 MB, everything else is far smaller.
_MAX_FILE_BYTES = 128 * 1024 * 1024

_VIDEO = "<video>"
_VARIABLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def prompt_from_checkpoint(directory: Path, default_template: str, stop_default: tuple[str, ...]) -> PromptSpec:
    """Take the chat template of a checkpoint apart.

    Args:
        directory: The checkpoint.
        default_template: Template of the family, used when the checkpoint has none.
        stop_default: Tokens that end a turn whatever the checkpoint says, e.g. ``<|im_end|>``; used where they exist.

    Raises:
        CheckpointError: Tokenizer, config or template files are missing or corrupt, the template has no place for a
            video followed by a question, or no token ends an answer.
    """
    config = _read_json(directory / "config.json")
    added = _added_tokens(directory, config)
    template = Template(
        source=_template_source(directory) or default_template,
        variables=_template_variables(directory),
        video=_video_token(directory, config, added),
    )
    try:
        split = split_isolated(template)
    except TemplateError as error:
        raise CheckpointError(
            f'The chat template of "{directory.name}" cannot be used: {error}.',
            "Repair its chat_template.jinja, or remove the template to use the one of the model family.",
        ) from error
    ends = [number for text in stop_default for number, token in added.items() if token.content == text]
    stop = _stop_tokens(directory, config, ends)
    before = _pieces(split.before_video, added)
    if split.next_turn is None:
        next_turn = (Piece(token=(ends or stop)[0]), Piece(text="\n"), *before)
    else:
        next_turn = _pieces(split.next_turn, added)
    return PromptSpec(before, _pieces(split.after_video, added), next_turn, stop)


def write_tokenizer(directory: Path, destination: Path) -> None:
    """Write the tokenizer of a checkpoint as one file that the runtime reads.

    A ``tokenizer.json`` is copied byte for byte; older files (``vocab.json`` with ``merges.txt``) are converted.

    Args:
        directory: The checkpoint.
        destination: File to write.

    Raises:
        CheckpointError: The tokenizer files are missing or corrupt.
    """
    destination.write_bytes(_tokenizer_bytes(directory))


def _tokenizer_bytes(directory: Path) -> bytes:
    path = directory / "tokenizer.json"
    if path.is_file():
        try:
            return read_bytes(path, _MAX_FILE_BYTES)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return _converted(directory)
    raise CheckpointError(
        f'Checkpoint "{directory.name}" has neither tokenizer.json nor vocab.json with merges.txt.',
        "Copy the tokenizer files of the model into it.",
    )


def _converted(directory: Path) -> bytes:
    from transformers import AutoTokenizer

    try:
        # False, not unset: unset asks at the terminal whether the checkpoint's code may run.
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        text: str = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # whatever broken files cause inside transformers
        raise CheckpointError(
            f'The tokenizer of "{directory.name}" cannot be converted ({str(error)[:120]}).',
            "Save it once with a fast tokenizer of transformers, so that it has a tokenizer.json.",
        ) from error
    return text.encode("utf-8")


def _added_tokens(directory: Path, config: dict[str, Any]) -> dict[int, Any]:
    """Return the tokens that are matched as a whole, by id: everything that structures a prompt."""
    import tokenizers

    data = _tokenizer_bytes(directory)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        added: dict[int, Any] = tokenizer.get_added_tokens_decoder()
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    except Exception as error:  # the library raises plain Exception for everything that it cannot read
        raise _unreadable(directory / "tokenizer.json", error) from error
    rows = _text_config(config).get("vocab_size")
    if isinstance(rows, int) and largest >= rows:
        raise CheckpointError(
            f'The tokenizer of "{directory.name}" has the token id {largest}, but the model has {rows} embeddings.',
            "Use the tokenizer files that belong to these weights.",
        )
    return added


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; a missing file is an empty one."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(read_text(path, _MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(data, dict):
        raise _unreadable(path, "not a JSON object")
    return data


def _unreadable(path: Path, reason: object) -> CheckpointError:
    return CheckpointError(
        f'"{path.name}" of checkpoint "{path.parent.name}" cannot be read ({str(reason)[:120]}).',
        "Fetch the checkpoint again.",
    )


def _template_source(directory: Path) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return read_text(path, _MAX_FILE_BYTES)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        value = _read_json(directory / name).get("chat_template")
        if isinstance(value, dict):
            value = value.get("default")
        if isinstance(value, list):  # [{"name": ..., "template": ...}, ...], from when there could be several
            value = next((v.get("template") for v in value if isinstance(v, dict) and v.get("name") == "default"), None)
        if isinstance(value, str) and value:
            return value
    return None


def _template_variables(directory: Path) -> tuple[tuple[str, str], ...]:
    config = _read_json(directory / "tokenizer_config.json")
    values = {name: config.get(name) for name in _VARIABLES}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    return tuple((name, text) for name, text in texts.items() if isinstance(text, str))


def _video_token(directory: Path, config: dict[str, Any], added: dict[int, Any]) -> str:
    for key in ("video_token_index", "video_token_id"):
        number = config.get(key)
        if isinstance(number, int) and number in added:
            return str(added[number].content)
    named = _read_json(directory / "processor_config.json").get("video_token")
    return named if isinstance(named, str) and named else _VIDEO


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _stop_tokens(directory: Path, config: dict[str, Any], ends: list[int]) -> tuple[int, ...]:
    sources = (_read_json(directory / "generation_config.json"), config, _text_config(config))
    named: Any = next((source["eos_token_id"] for source in sources if source.get("eos_token_id") is not None), [])
    stop = named if isinstance(named, list) else [named]
    if not all(type(token) is int and token >= 0 for token in stop):
        raise CheckpointError(
            f'Checkpoint "{directory.name}" has eos_token_id {str(named)[:60]}, expected token ids.',
            "Correct its generation_config.json.",
        )
    if not stop and not ends:
        raise CheckpointError(
            f'Checkpoint "{directory.name}" names no token that ends an answer.',
            "Set eos_token_id in its generation_config.json.",
        )
    return tuple(dict.fromkeys([*stop, *ends]))


def _pieces(text: str, added: dict[int, Any]) -> tuple[Piece, ...]:
    """Split at the added tokens, longest first, as the tokenizer would, and at the question."""
    tokens = sorted(added.items(), key=lambda item: len(item[1].content), reverse=True)
    pattern = "|".join(
        (r"\s*" if token.lstrip else "") + f"({re.escape(token.content)})" + (r"\s*" if token.rstrip else "")
        for _, token in tokens
    )
    pieces: list[Piece] = []
    end = 0
    for match in re.finditer(pattern, text) if pattern else ():
        pieces += _text_pieces(text[end : match.start()])
        pieces.append(Piece(token=tokens[(match.lastindex or 1) - 1][0]))
        end = match.end()
    return tuple(pieces + _text_pieces(text[end:]))


def _text_pieces(text: str) -> list[Piece]:
    before, question, after = text.partition(QUESTION)
    pieces = [Piece(text=before), *([Piece(question=True)] if question else []), Piece(text=after)]
    return [piece for piece in pieces if piece.question or piece.text]
