"""Prompts to ids and answers to text, against transformers' tokenizer on the whole string."""

from __future__ import annotations

import json
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.demo.tokenizer import SPECIAL_TOKENS, token_ids, write_tokenizer
from stc_export.spec.errors import BundleError, MissingDependencyError, QuestionError
from stc_export.spec.manifest import Piece
from stc_runtime.text import Decoder, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

IDS = token_ids()
START, END, VIDEO = IDS["<|im_start|>"], IDS["<|im_end|>"], IDS["<video>"]
AFTER = (Piece(text="\n"), Piece(question=True), Piece(token=END), Piece(token=START), Piece(text="assistant\n"))

QUESTIONS = [
    "What is on the table?",
    " leading and trailing ",
    "\n\nnew lines\r\n",
    "it's 12345 o'clock, isn't it?",
    "caf\u00e9 and cafe\u0301 (two ways to write it)",
    "桌子上有什么\uff1f 😀👩‍👩‍👧 🇩🇪",
    "\x00\x01\x7f\u200b control",
    "\u0301 starts with a combining mark",
    "a" * 3000,
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, context=4096)
    return folder


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.open(directory / "tokenizer.json")


@pytest.fixture(scope="module")
def whole(directory: Path) -> Any:
    """Transformers' tokenizer: the independent reference."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def _rendered(question: str) -> str:
    return f"\n{question}<|im_end|><|im_start|>assistant\n"


def _stream(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[str]:
    decoder = Decoder(tokenizer)
    return [*(decoder.push(token) for token in tokens), decoder.finish()]


@pytest.mark.parametrize("question", QUESTIONS)
def test_encode_prompt_equals_transformers_on_the_whole_string(tokenizer: Tokenizer, whole: Any, question: str) -> None:
    assert tokenizer.encode_prompt(AFTER, question) == tuple(whole(_rendered(question)).input_ids)


@given(st.text(min_size=1).filter(lambda text: text.strip() and not any(token in text for token in SPECIAL_TOKENS)))
def test_encode_prompt_of_any_text_equals_transformers(tokenizer: Tokenizer, whole: Any, question: str) -> None:
    assert tokenizer.encode_prompt(AFTER, question) == tuple(whole(_rendered(question)).input_ids)


def test_encode_prompt_merges_across_the_edge_of_the_question(tokenizer: Tokenizer, whole: Any) -> None:
    pieces = (Piece(text="the ta"), Piece(question=True), Piece(text="le"))
    ids = tokenizer.encode_prompt(pieces, "b")
    assert ids == tuple(whole("the table").input_ids)
    parts = tokenizer.encode_plain("the ta") + tokenizer.encode_plain("b") + tokenizer.encode_plain("le")
    assert len(ids) < len(parts)


def test_encode_prompt_without_a_question_needs_none(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_prompt((Piece(token=START), Piece(text="user ")))
    assert ids == (START, *tokenizer.encode_plain("user "))
    assert tokenizer.encode_prompt(()) == ()


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_token_in_a_question_stays_text(tokenizer: Tokenizer, whole: Any, token: str) -> None:
    question = f"say {token} and {token}{token}"
    assert set(whole(question).input_ids) & set(IDS.values()), "transformers itself would read structure"
    plain = tokenizer.encode_plain(question)
    assert not set(plain) & set(IDS.values())
    assert tokenizer.decode(plain) == question
    ids = tokenizer.encode_prompt(AFTER, question)
    assert [i for i in ids if i in IDS.values()] == [END, START]


TEMPLATE_WORDS = [
    *SPECIAL_TOKENS,
    "</s>",
    "<s>",
    "system",
    "user",
    "assistant\n",
    "\n",
    "<|im_",
    "end|>",
    "<|",
    "\0",
    "\u0301",
]


@given(st.lists(st.sampled_from(TEMPLATE_WORDS) | st.text(max_size=8), min_size=1, max_size=12))
def test_special_ids_of_a_prompt_are_those_of_its_template_whatever_the_question_says(
    tokenizer: Tokenizer, parts: list[str]
) -> None:
    import unicodedata

    question = "".join(parts) + "?"
    ids = tokenizer.encode_prompt(AFTER, question)
    assert [i for i in ids if i in IDS.values()] == [END, START]
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", f"\n{question}") + "assistant\n"


def vocabulary_with_its_own_structure(kind: str) -> Tokenizer:
    """A tokenizer whose added token is a word of its model, too, as in Unigram models and byte pairs without merges."""
    import tokenizers
    from tokenizers import models

    letters = [*"</s>ab", "</s>"]
    model = {
        "unigram": lambda: models.Unigram([("<unk>", 0.0), *((letter, -3.0) for letter in letters)], 0, False),
        "pairs": lambda: models.BPE(
            vocab={letter: i for i, letter in enumerate(letters)}, merges=[], ignore_merges=True
        ),
    }[kind]()
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend, frozenset())


@pytest.mark.parametrize("kind", ["unigram", "pairs"])
@pytest.mark.parametrize("text", ["</s>", "a</s>b</s>", "<</s>/s>", "</s>" * 2000])
def test_special_token_that_is_a_word_of_the_model_stays_text(kind: str, text: str) -> None:
    tokenizer = vocabulary_with_its_own_structure(kind)
    number = tokenizer._backend.token_to_id("</s>")
    ids = tokenizer.encode_plain(text)
    assert number not in ids
    assert "".join(tokenizer._backend.id_to_token(token) for token in ids) == text


def test_added_token_that_is_not_special_stays_text_in_a_question_but_is_shown_in_an_answer(
    directory: Path, tmp_path: Path
) -> None:
    data = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    number = max(token["id"] for token in data["added_tokens"]) + 1
    data["added_tokens"].append({**data["added_tokens"][0], "id": number, "content": "<think>", "special": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    tokenizer = Tokenizer.open(tmp_path / "tokenizer.json")
    assert number not in tokenizer.encode_plain("a <think> b")
    assert tokenizer.decode([number, END]) == "<think>"


def test_truncation_and_padding_of_the_file_are_ignored(directory: Path, tmp_path: Path) -> None:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.open(tmp_path / "tokenizer.json")
    assert tokenizer.encode_plain(QUESTIONS[0] * 3) == Tokenizer.open(directory / "tokenizer.json").encode_plain(
        QUESTIONS[0] * 3
    )


@pytest.mark.parametrize("question", ["", " ", "\n\t \u3000"])
def test_question_without_text_is_refused(tokenizer: Tokenizer, question: str) -> None:
    with pytest.raises(QuestionError, match="expected some text"):
        tokenizer.encode_prompt(AFTER, question)


def test_question_with_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(QuestionError, match="surrogate"):
        tokenizer.encode_prompt(AFTER, "what \ud83d is this?")


def test_emoji_comes_out_whole_with_its_last_token(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode_plain("a😀b")
    pieces = _stream(tokenizer, tokens)
    assert len(tokens) > 3
    assert [piece for piece in pieces if piece] == ["a", "😀", "b"]


def test_answer_cut_inside_a_character_ends_with_a_replacement_character(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode_plain("ok 😀")[:-1]
    pieces = _stream(tokenizer, tokens)
    assert "".join(pieces[:-1]) == "ok "
    assert pieces[-1] == "\ufffd"


def test_special_and_unknown_tokens_add_nothing_to_an_answer(tokenizer: Tokenizer) -> None:
    yes = tokenizer.encode_plain("Yes")
    assert "".join(_stream(tokenizer, [START, *yes, VIDEO, 505, 511, END])) == "Yes"


def test_decoder_can_be_used_again_after_finish(tokenizer: Tokenizer) -> None:
    decoder = Decoder(tokenizer)
    decoder.push(tokenizer.encode_plain("😀")[0])
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""
    assert "".join(map(decoder.push, tokenizer.encode_plain("new"))) == "new"


def test_stream_of_a_tokenizer_that_marks_words_by_their_first_character_keeps_the_spaces() -> None:
    import tokenizers
    from tokenizers import decoders, models

    words = ["\u2581Hello", "\u2581world", "!", *(f"<0x{byte:02X}>" for byte in "😀".encode())]
    backend = tokenizers.Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    pieces = _stream(Tokenizer(backend, frozenset()), [0, 1, 3, 4, 5, 6, 2, 1])
    assert pieces == ["Hello", " world", "", "", "", "😀", "!", " world", ""]


@given(st.lists(st.integers(0, 511), max_size=60))
def test_stream_of_any_tokens_equals_decoding_at_once(tokenizer: Tokenizer, whole: Any, tokens: list[int]) -> None:
    known = [token for token in tokens if token < len(whole)]
    expected = whole.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(_stream(tokenizer, tokens)) == tokenizer.decode(tokens) == expected


@given(st.text())
def test_stream_of_any_text_gives_it_back(tokenizer: Tokenizer, text: str) -> None:
    import unicodedata

    assert "".join(_stream(tokenizer, tokenizer.encode_plain(text))) == unicodedata.normalize("NFC", text)


def test_stream_of_bytes_alone_equals_decoding_at_once(tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    text = "".join(chr(draw.choice([0x61, 0xE9, 0x20AC, 0x1F600])) for _ in range(50)).encode()
    damaged = bytes(draw.randrange(256) if draw.random() < 0.2 else byte for byte in text)
    byte_ids = {bytes([byte]): token for token in range(256) for byte in [_byte_of(tokenizer, token)]}
    tokens = [byte_ids[damaged[i : i + 1]] for i in range(len(damaged))]
    assert "".join(_stream(tokenizer, tokens)) == damaged.decode("utf-8", errors="replace")


def _byte_of(tokenizer: Tokenizer, token: int) -> int:
    character = tokenizer._backend.id_to_token(token)
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # GPT-2 writes these bytes as themselves
    others = [byte for byte in range(256) if byte not in plain]
    return others[ord(character) - 256] if ord(character) >= 256 else ord(character)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"added_tokens": []}', '{"added_tokens": [{"id": 1}]}'])
def test_open_of_a_missing_or_broken_file_is_a_bundle_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=r'"tokenizer\.json"'):
        Tokenizer.open(path)


def test_open_without_the_tokenizers_package_names_the_extra(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError) as caught:
        Tokenizer.open(directory / "tokenizer.json")
    assert 'pip install "stc-export[text]"' in caught.value.fix
