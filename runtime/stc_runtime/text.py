"""Text in and out of the LLM: prompts to token ids, answer tokens to text as they come."""

from __future__ import annotations

import json
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from stc_export.spec.errors import BundleError, MissingDependencyError, QuestionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from stc_export.spec.manifest import Piece

#: What stands in decoded text for bytes that are not (or not yet) a character.
_UNFINISHED = "\ufffd"


class Tokenizer:
    """The model's tokenizer. Text is never read as structure: in a question, ``<|im_end|>`` is only characters."""

    def __init__(self, backend: Any, silent: frozenset[int]) -> None:
        """Take over a tokenizer of the ``tokenizers`` library; :meth:`open` is the usual way.

        Args:
            backend: A ``tokenizers.Tokenizer`` whose added tokens are all marked as special.
            silent: Token ids that add nothing to an answer's text.
        """
        backend.encode_special_tokens = True  # special tokens in text are text
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._silent = silent
        self._added = frozenset(backend.get_added_tokens_decoder())

    @classmethod
    def open(cls, path: Path) -> Tokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            BundleError: The file is missing, or is not a tokenizer.
            MissingDependencyError: The package ``tokenizers`` is not installed.
        """
        try:
            import tokenizers
        except ImportError as error:
            raise MissingDependencyError(
                'Reading a question needs the package "tokenizers", which is not installed.',
                'Install it: pip install "stc-export[text]".',
            ) from error
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            added = data["added_tokens"]
            silent = frozenset(int(token["id"]) for token in added if token["special"])
            data["added_tokens"] = [{**token, "special": True} for token in added]
            backend = tokenizers.Tokenizer.from_str(json.dumps(data))
        except Exception as error:  # the library raises plain Exception for everything that it cannot read
            raise BundleError(
                f'The tokenizer "{path.name}" of "{path.parent.name}" cannot be read ({str(error)[:120]}).',
                "Build the bundle again.",
            ) from error
        return cls(backend, silent)

    def encode_plain(self, text: str) -> tuple[int, ...]:
        """Return the token ids of plain text.

        No id of an added token is among them, but that of the unknown token where one character has no other.

        Raises:
            QuestionError: The text is not valid Unicode (it has half of a surrogate pair).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise QuestionError(
                f"The text has half a surrogate pair at character {error.start}, expected valid Unicode.",
                "Decode the text as UTF-8 before you ask.",
            ) from error
        return self._encode(text)

    def _encode(self, text: str) -> tuple[int, ...]:
        encoding = self._backend.encode(text, add_special_tokens=False)
        # Some vocabularies hold the added tokens as words, too. Such a word is taken apart behind its first character.
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        cuts = [start + 1 for token, (start, end) in spans if token in self._added and end - start > 1]
        if not cuts:
            return tuple(encoding.ids)
        parts = pairwise([0, *cuts, len(text)])
        return tuple(token for first, last in parts for token in self._encode(text[first:last]))

    def encode_prompt(self, pieces: Iterable[Piece], question: str = "") -> tuple[int, ...]:
        """Return the token ids of a part of the prompt.

        Text between two special tokens, the question included, is encoded as one string, as transformers does.

        Args:
            pieces: Parts in order.
            question: What stands at the place of the question; not looked at where the pieces have no such place.

        Raises:
            QuestionError: The pieces ask for a question and it is empty, white space only, or not valid Unicode.
        """
        ids: list[int] = []
        for special, group in groupby(pieces, key=lambda piece: piece.token is not None):
            if special:
                ids.extend(piece.token for piece in group if piece.token is not None)
            else:
                ids.extend(self.encode_plain("".join(_text_of(piece, question) for piece in group)))
        return tuple(ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids; special tokens and ids without a token add nothing."""
        kept = [token for token in tokens if token not in self._silent]
        return str(self._backend.decode(kept, skip_special_tokens=False))


class Decoder:
    """Text of an answer, token by token. What it returns, joined, is the text of all tokens decoded at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start with an empty answer.

        Args:
            tokenizer: The model's tokenizer.
        """
        self._tokenizer = tokenizer
        self._context: list[int] = []  # the last finished token: some tokenizers write a word by what precedes it
        self._pending: list[int] = []  # tokens since then
        self._returned = 0  # characters of the pending text that were returned already

    def push(self, token: int) -> str:
        """Take the next token and return the text that it completes: empty while a character is incomplete."""
        self._pending.append(token)
        text = self._pending_text()
        complete = text.rstrip(_UNFINISHED)
        return self._take(text, len(complete))

    def finish(self) -> str:
        """Return what is left, with U+FFFD for bytes that never became a character, and be ready for a new answer."""
        text = self._pending_text()
        rest = self._take(text, len(text))
        self._context = []
        return rest

    def _pending_text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]

    def _take(self, text: str, end: int) -> str:
        new = text[self._returned : end]
        if end < len(text):
            self._returned = end
        else:
            self._context = self._pending[-1:] if text else self._context
            self._pending = []
            self._returned = 0
        return new


def _text_of(piece: Piece, question: str) -> str:
    if not piece.question:
        return piece.text or ""
    if not question.strip():
        shown = f"{question[:40]!r}" if question else "empty"
        raise QuestionError(
            f"The question is {shown}, expected some text.", "Ask something, for example: What is happening?"
        )
    return question
