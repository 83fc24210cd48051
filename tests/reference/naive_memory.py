"""What an LLM remembers of a stream, the obvious way: a list of tokens that is renumbered after every eviction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Token:
    """A remembered token; ``label`` tells it apart from all others."""

    label: tuple[int, int]
    position: int


class NaiveMemory:
    """Segment 0 is the sink at positions 0, 1, ...; every later segment follows the end of the one before."""

    def __init__(self, kv_tokens: int, answer_tokens: int, context: int, sink: int, frames: int | None = None) -> None:
        self.kv_tokens, self.answer_tokens, self.context = kv_tokens, answer_tokens, context
        self.frames = frames
        self.tokens = [Token((0, i), i) for i in range(sink)]
        self.spans = {0: sink}
        self.kinds = {0: "sink"}
        self.count = 0

    @property
    def end(self) -> int:
        return sum(self.spans.values())

    def admit(self, kind: str, offsets: list[int], span: int) -> list[str]:
        """Remember a segment whose tokens lie at ``offsets`` of its ``span``; return the kinds that had to leave."""
        if not offsets:
            return []
        gone = []
        while kind == "frame" and self.frames == list(self.kinds.values()).count("frame"):
            gone.append(self._drop_oldest())
        while len(self.tokens) + len(offsets) > self.kv_tokens or self.end + span + self.answer_tokens > self.context:
            gone.append(self._drop_oldest())
        self.count += 1
        self.tokens += [Token((self.count, i), self.end + offset) for i, offset in enumerate(offsets)]
        self.spans[self.count] = span
        self.kinds[self.count] = kind
        return gone

    def _drop_oldest(self) -> str:
        oldest = sorted(self.spans)[1]
        self.tokens = [token for token in self.tokens if token.label[0] != oldest]
        for token in self.tokens:
            if token.label[0] > oldest:
                token.position -= self.spans[oldest]
        del self.spans[oldest]
        return self.kinds.pop(oldest)
