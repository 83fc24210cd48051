"""Chat templates taken apart, against transformers' rendering and tokenising of the whole conversation."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from stc_export.demo.checkpoint import CHAT_TEMPLATE
from stc_export.demo.tokenizer import token_ids, write_tokenizer
from stc_export.exporter import prompt
from stc_export.exporter.prompt import prompt_from_checkpoint
from stc_export.spec.errors import CheckpointError
from stc_export.spec.manifest import Piece, PromptSpec
from stc_runtime.text import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

IDS = token_ids()
START, END, VIDEO, END_OF_TEXT = (IDS[t] for t in ("<|im_start|>", "<|im_end|>", "<video>", "<|endoftext|>"))
STOP = ("<|im_end|>",)
QUESTION = "What's on the table? 桌子"

#: Made for text-only models, like Qwen2's own: content is a string, and there is a system prompt.
TEXT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ONE_TURN_TEMPLATE = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}" + CHAT_TEMPLATE


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The text files of a checkpoint, without a template."""
    directory = tmp_path / "some-model"
    directory.mkdir()
    write_tokenizer(directory, context=4096)
    config = {"video_token_index": VIDEO, "text_config": {"eos_token_id": END_OF_TEXT, "vocab_size": 512}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
    return directory


def _spec(directory: Path) -> PromptSpec:
    return prompt_from_checkpoint(directory, CHAT_TEMPLATE, STOP)


def _with_template(directory: Path, template: str) -> Path:
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


def _user(as_list: bool) -> dict[str, Any]:
    parts = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    return {"role": "user", "content": parts if as_list else f"<video>\n{QUESTION}"}


def _transformers_ids(directory: Path, messages: list[dict[str, Any]]) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize(("template", "as_list"), [(CHAT_TEMPLATE, True), (TEXT_TEMPLATE, False)])
def test_pieces_give_the_ids_of_transformers_for_one_and_two_turns(
    checkpoint: Path, template: str, as_list: bool
) -> None:
    spec = _spec(_with_template(checkpoint, template))
    tokenizer = Tokenizer.open(checkpoint / "tokenizer.json")
    before = tokenizer.encode_prompt(spec.before_video)
    after = tokenizer.encode_prompt(spec.after_video, QUESTION)
    one_turn = [*before, VIDEO, *after]
    assert one_turn == _transformers_ids(checkpoint, [_user(as_list)])

    answer = {"role": "assistant", "content": [{"type": "text", "text": "Yes"}] if as_list else "Yes"}
    two_turns = _transformers_ids(checkpoint, [_user(as_list), answer, _user(as_list)])
    tail = [*tokenizer.encode_plain("Yes"), *tokenizer.encode_prompt(spec.next_turn), VIDEO, *after]
    assert two_turns[-len(tail) :] == tail


def test_published_template_gives_the_expected_pieces(checkpoint: Path) -> None:
    spec = _spec(_with_template(checkpoint, CHAT_TEMPLATE))
    assert spec.before_video == (Piece(token=START), Piece(text="user "))
    assert spec.after_video == (
        Piece(text="\n"),
        Piece(question=True),
        Piece(token=END),
        Piece(token=START),
        Piece(text="assistant\n"),
    )
    assert spec.next_turn == (Piece(token=END), Piece(token=START), Piece(text="user "))
    assert spec.stop_tokens == (END,)


def test_template_for_one_turn_gets_a_plain_next_turn(checkpoint: Path) -> None:
    spec = _spec(_with_template(checkpoint, ONE_TURN_TEMPLATE))
    assert spec.next_turn == (Piece(token=END), Piece(text="\n"), *spec.before_video)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.json", {"chat_template": TEXT_TEMPLATE}),
        ("processor_config.json", {"chat_template": TEXT_TEMPLATE}),
        ("tokenizer_config.json", {"chat_template": TEXT_TEMPLATE}),
        ("tokenizer_config.json", {"chat_template": [{"name": "default", "template": TEXT_TEMPLATE}]}),
    ],
)
def test_template_is_found_in_every_file_that_may_hold_it(checkpoint: Path, name: str, content: Any) -> None:
    (checkpoint / name).write_text(json.dumps(content))
    assert Piece(text="system\nYou are a helpful assistant.") in _spec(checkpoint).before_video


def test_checkpoint_without_template_uses_the_default(checkpoint: Path) -> None:
    assert _spec(checkpoint).before_video == (Piece(token=START), Piece(text="user "))


def test_template_sees_the_special_tokens_of_the_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<|endoftext|>"}}))
    spec = _spec(_with_template(checkpoint, "{{ bos_token }}" + CHAT_TEMPLATE))
    assert spec.before_video[0] == Piece(token=END_OF_TEXT)


def test_video_placeholder_comes_from_the_config(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["video_token_index"] = IDS["<image>"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    spec = _spec(_with_template(checkpoint, CHAT_TEMPLATE.replace("<video>", "<image>")))
    assert spec.before_video == (Piece(token=START), Piece(text="user "))


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": END}, {}, (END,)),
        ({"eos_token_id": [END_OF_TEXT, END]}, {}, (END_OF_TEXT, END)),
        ({}, {"eos_token_id": END_OF_TEXT}, (END_OF_TEXT, END)),
        (None, {"text_config": {"eos_token_id": 7}}, (7, END)),
        (None, {}, (END,)),
    ],
)
def test_stop_tokens_come_from_generation_config_then_config(
    checkpoint: Path, generation: dict[str, Any] | None, config: dict[str, Any], expected: tuple[int, ...]
) -> None:
    (checkpoint / "generation_config.json").unlink()
    if generation is not None:
        (checkpoint / "generation_config.json").write_text(json.dumps(generation))
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert _spec(checkpoint).stop_tokens == expected


def test_next_turn_ends_the_answer_with_the_default_stop_when_there_are_several(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [END_OF_TEXT, END]}))
    spec = _spec(_with_template(checkpoint, ONE_TURN_TEMPLATE))
    assert (spec.stop_tokens, spec.next_turn[0]) == ((END_OF_TEXT, END), Piece(token=END))


def test_longest_of_two_added_tokens_wins_as_in_the_tokenizer(checkpoint: Path) -> None:
    data = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    data["added_tokens"].append({**data["added_tokens"][0], "id": 501, "content": "<|im_end|>\n", "special": False})
    (checkpoint / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    spec = _spec(_with_template(checkpoint, TEXT_TEMPLATE))
    ids = Tokenizer.open(checkpoint / "tokenizer.json").encode_prompt(spec.before_video)
    assert 501 in ids
    assert list(ids) == _transformers_ids(checkpoint, [_user(as_list=False)])[: len(ids)]


def test_white_space_beside_a_token_that_strips_it_is_dropped(checkpoint: Path) -> None:
    data = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    for token in data["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_start|>"
        token["lstrip"] = token["content"] == "<|im_end|>"
    (checkpoint / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    spec = _spec(_with_template(checkpoint, TEXT_TEMPLATE.replace("<|im_start|>", "<|im_start|> \n")))
    import tokenizers

    text = "<|im_start|> \nsystem\nYou are a helpful assistant.<|im_end|>\n<|im_start|> \nuser\n"
    expected = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(text).ids
    assert list(Tokenizer.open(checkpoint / "tokenizer.json").encode_prompt(spec.before_video)) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "Unexpected end"),
        ("just text", 'writes "<video>" 0 times'),
        ("<video><video>{{ messages[0]['content'][1]['text'] }}", 'writes "<video>" 2 times'),
        ("{{ messages[0]['content'][1]['text'] }}<video>", "no place for a question after the video"),
        ("<video>{{ raise_exception('only for tools') }}", "only for tools"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include 'other.jinja' %}", "no loader"),
        ("<video>{% for i in range(99999) %}0123456789{% endfor %}", "more than 262144 characters"),
        ("{{ range(10 ** 9) | list }}", "too big"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("<video>{{ '\\ud800' }}", "surrogates not allowed"),
        ("x" * 300_000, "has 300000 characters"),
        ("{{ " + "(" * 5000 + " }}", ""),
    ],
)
def test_unusable_template_is_a_checkpoint_error_with_the_reason(checkpoint: Path, template: str, reason: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        _spec(_with_template(checkpoint, template))
    assert '"some-model"' in caught.value.problem
    assert reason in caught.value.problem
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "not json"),
        ("config.json", "{"),
        ("config.json", "[1]"),
        ("generation_config.json", "\x00"),
        ("tokenizer_config.json", "[" * 100_000),
    ],
)
def test_corrupt_file_is_a_checkpoint_error_that_names_it(checkpoint: Path, name: str, content: str) -> None:
    (checkpoint / name).write_text(content)
    with pytest.raises(CheckpointError, match=name):
        _spec(checkpoint)


@pytest.mark.parametrize("eos", ["</s>", -1, [1, None], True])
def test_stop_token_that_is_no_id_is_a_checkpoint_error(checkpoint: Path, eos: Any) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    with pytest.raises(CheckpointError, match="eos_token_id"):
        _spec(checkpoint)


def test_checkpoint_without_any_stop_token_is_a_checkpoint_error(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    (checkpoint / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="ends an answer"):
        prompt_from_checkpoint(checkpoint, CHAT_TEMPLATE, ("<|eot_id|>",))


def test_tokenizer_larger_than_the_embedding_table_is_a_checkpoint_error(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 500}}))
    with pytest.raises(CheckpointError, match="token id 500, but the model has 500 embeddings"):
        _spec(checkpoint)


def test_checkpoint_without_tokenizer_is_a_checkpoint_error(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.json"):
        _spec(checkpoint)
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.json"):
        prompt.write_tokenizer(checkpoint, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_tokenizer_json_is_copied_byte_for_byte(checkpoint: Path, tmp_path: Path) -> None:
    prompt.write_tokenizer(checkpoint, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()


def _as_old_files(directory: Path) -> None:
    """Replace tokenizer.json by what older checkpoints have: vocab.json, merges.txt, and added tokens in the config."""
    data = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(data["model"]["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in data["model"]["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["added_tokens_decoder"] = {str(t.pop("id")): t for t in data["added_tokens"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_vocab_and_merges_are_converted_to_the_same_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(checkpoint, old)
    _as_old_files(old)
    prompt.write_tokenizer(old, tmp_path / "out.json")
    converted, expected = Tokenizer.open(tmp_path / "out.json"), Tokenizer.open(checkpoint / "tokenizer.json")
    for text in (QUESTION, "it's 12 <|im_end|> o'clock\n\n  ", "cafe\u0301"):
        assert converted.encode_plain(text) == expected.encode_plain(text)
    assert _spec(old) == _spec(checkpoint)


def test_code_in_the_checkpoint_is_never_run_for_its_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    _as_old_files(checkpoint)
    (checkpoint / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass T: pass\n")
    config = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot be converted"):
        prompt.write_tokenizer(checkpoint, tmp_path / "out.json")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_corrupt_old_tokenizer_files_are_a_checkpoint_error(checkpoint: Path, name: str) -> None:
    _as_old_files(checkpoint)
    (checkpoint / name).write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match="cannot be converted"):
        _spec(checkpoint)
