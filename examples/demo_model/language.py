"""Second stage: the LLM learns on the tower's visual tokens, many questions per clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from clips import ASKED, IGNORE, Encoded, Store, epochs
from heads import Readings, class_weights
from labels import FACTS
from optim import make_optimizers, set_rate
from packing import ATTENTION, Batch, Wording, embed, pack
from state_io import load_run, save_run
from torch.nn import functional

from stc_export.world.dice import Dice
from stc_export.world.questions import LETTERS, TEMPLATES, Question, choose_options

#: Clips per step, and questions per clip.
CLIPS = 4
QUESTIONS = 10
RATE = 1.5e-3
#: Percent of the steps that see every token, and shares of :func:`thin`'s ways in the others.
_WHOLE, _COMPLETE, _SALIENT = 10, 70, 90
#: Layer after which a token must know what is in it.
FACT_LAYER = 3
#: Layer after which a frame's last token must know the answers to all questions: the ones above it read them.
STATE_LAYER = 4
#: Layer after which a question's end must know the answer, and each option whether it is right.
CHOICE_LAYER = 5


class Asker:
    """Draws questions about clips so that the answers of each template come up equally often.

    Args:
        seed: Of its choices.
    """

    def __init__(self, seed: int) -> None:
        self._dice = Dice(f"asker/{seed}")
        self._count: Counter[tuple[int, int]] = Counter()

    def ask(self, answers: npt.NDArray[np.int64], count: int) -> list[Question]:
        """Return questions about one clip."""
        return [self._one(answers) for _ in range(count)]

    def _one(self, answers: npt.NDArray[np.int64]) -> Question:
        place = self._dice.between(0, len(TEMPLATES) - 1)
        columns = [column for column, (template, _) in enumerate(ASKED) if template == place]
        table = answers[:, columns]
        values = [int(v) for v in np.unique(table) if v != IGNORE]
        if not values:
            return self._one(answers)
        value = min(values, key=lambda v: (self._count[place, v], v))
        self._count[place, value] += 1
        frame, column = (int(n) for n in self._dice.pick(np.argwhere(table == value)))
        template = TEMPLATES[place]
        options, right = choose_options(template, template.values[value], self._dice)
        text = template.text.format(template.subjects[ASKED[columns[column]][1]])
        return Question(template.name, template.group, frame, float(frame), text, options, right)


def thin(clip: Encoded, dice: Dice, *, whole: bool) -> list[npt.NDArray[np.int64]]:
    """Choose the visual tokens of each frame that the LLM sees in training: ascending indices per frame.

    Large VideoLLMs have seen many frame sizes and lengths, so that missing tokens do not surprise them; this one learns
    the same here, and a step costs less. Most clips keep the tokens in which there is something and a few others, some
    keep what differs most from the frame's mean and from the frame before, and some what chance leaves.
    """
    frames, tokens = clip.tokens.shape[:2]
    if whole:
        return [np.arange(tokens)] * frames
    chance = np.array([dice.some(range(tokens), tokens) for _ in range(frames)])
    way, count = dice.between(1, 100), dice.between(10, 20)
    if way <= _COMPLETE:
        counts = np.maximum((clip.facts[..., 0] == 1).sum(1) + dice.between(0, 5), 1)
        score = chance + tokens * (clip.facts[..., 0] == 1)
    elif way <= _SALIENT:
        values = clip.tokens.astype(np.float32)
        change = np.abs(np.diff(values, axis=0, prepend=values[:1])).mean(-1)
        counts, score = np.full(frames, count), change + np.abs(values - values.mean(1, keepdims=True)).mean(-1)
    else:
        counts, score = np.full(frames, count), chance
    return [np.sort(np.argsort(-row, kind="stable")[:most]) for row, most in zip(score, counts, strict=True)]


@dataclass(frozen=True)
class Step:
    """One batch of the second stage."""

    batch: Batch
    questions: list[Question]
    visual: torch.Tensor
    answers: torch.Tensor
    facts: torch.Tensor


def prepare(clips: list[Encoded], wording: Wording, asker: Asker, dice: Dice) -> Step:
    """Draw tokens and questions for a batch of clips."""
    whole = dice.chance(_WHOLE)
    kept = [thin(clip, dice, whole=whole) for clip in clips]
    questions = [asker.ask(clip.answers, QUESTIONS) for clip in clips]
    seen = [(clip, f, tokens) for clip, k in zip(clips, kept, strict=True) for f, tokens in enumerate(k)]
    return Step(
        pack(wording, [[len(tokens) for tokens in k] for k in kept], questions),
        [question for asked in questions for question in asked],
        torch.from_numpy(np.concatenate([clip.tokens[f][tokens] for clip, f, tokens in seen])).float(),
        torch.from_numpy(np.concatenate([clip.answers for clip in clips])),
        torch.from_numpy(np.concatenate([clip.facts[f][tokens, 1:] for clip, f, tokens in seen])).long(),
    )


def run_llm(model: Any, batch: Batch, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the states after each layer, embeddings first, the last ones normalised: float32 [B * S, D] each."""
    model.model.language_model.set_attn_implementation(ATTENTION)
    out = model.model.language_model(
        inputs_embeds=inputs,
        attention_mask={"full_attention": batch.mask},
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    return tuple(states.flatten(0, 1) for states in (*out.hidden_states[:-1], out.last_hidden_state))


@dataclass(frozen=True)
class Heads:
    """What only training needs: linear readings of tokens in the middle of the LLM, thrown away afterwards.

    Attributes:
        state: Of a frame's last visual token: everything that can be asked. A question alone says little about what
            should have been noticed frames ago; this says it at every frame.
        facts: Of a visual token: what is known of the object in it. Where it is and how it moves is one step away at
            its own token, and many at the end of the frame.
        choice: Of an option's last token: whether it is right.
        letter: Of the same: its letter.
    """

    state: Readings
    facts: Readings
    choice: Readings
    letter: Readings


def new_heads(store: Store) -> Heads:
    """Return heads without training whose rare classes count as much as the others.

    Args:
        store: Where it is counted how often each class comes up.
    """
    answers, facts = store.all_answers(), store.all_facts()[..., 1:].reshape(-1, len(FACTS))
    sizes = [len(TEMPLATES[place].values) for place, _ in ASKED]
    return Heads(
        Readings(sizes, class_weights(answers, sizes)),
        Readings(list(FACTS.values()), class_weights(facts, list(FACTS.values()))),
        Readings([1]),
        Readings([len(LETTERS)]),
    )


@dataclass(frozen=True)
class Losses:
    """What a step gives."""

    total: torch.Tensor
    answer: float
    word: float
    choice: float
    state: float
    facts: torch.Tensor
    right: list[bool]
    state_right: torch.Tensor


def losses_of(model: Any, heads: Heads, step: Step, wording: Wording, inputs: torch.Tensor) -> Losses:
    """Return the losses of a batch: letter, end after it, word of the answer, right option, state."""
    states = run_llm(model, step.batch, inputs)
    middle, late, final = states[STATE_LAYER], states[CHOICE_LAYER], states[-1]
    letters = torch.tensor([wording.letters[q.right] for q in step.questions])
    logits = model.lm_head(final[step.batch.places])
    answer = functional.cross_entropy(logits, letters)
    end = functional.cross_entropy(model.lm_head(final[step.batch.places + 1]), torch.full_like(letters, wording.end))
    words = torch.tensor([wording.words[q.options[q.right]] for q in step.questions])
    word = functional.cross_entropy(model.lm_head(model.model.language_model.norm(late[step.batch.marks])), words)
    right = torch.tensor([question.right for question in step.questions])
    options = late[step.batch.options]
    choice = functional.cross_entropy(heads.choice(options)[0].squeeze(-1), right)
    letter = functional.cross_entropy(heads.letter(options)[0].flatten(0, 1), torch.arange(4).repeat(len(options)))
    state, state_right = heads.state.losses(middle[step.batch.last], step.answers)
    facts, facts_right = heads.facts.losses(states[FACT_LAYER][step.batch.visual], step.facts)
    return Losses(
        answer + 0.1 * end + 0.5 * word + choice + 0.3 * letter + 2.0 * state.mean() + facts.sum(),
        answer.item(),
        word.item(),
        choice.item(),
        state.mean().item(),
        facts_right,
        (logits.argmax(-1) == letters).tolist(),
        state_right,
    )


def train_language(model: Any, store: Store, run: Path, steps: int, report: Callable[[int, str], None]) -> None:
    """Train the LLM and the newline token on stored clips, resuming from ``run`` if there is something."""
    from stc_export.demo.tokenizer import build_tokenizer

    wording, heads = Wording(build_tokenizer()), new_heads(store)
    parts = {
        "llm": model.model.language_model,
        "newline": torch.nn.ParameterList([model.model.image_newline]),
        "state": heads.state,
        "facts": heads.facts,
        "choice": heads.choice,
        "letter": heads.letter,
    }
    optimizers = make_optimizers(list(parts.values()), RATE)
    done = load_run(run, parts, optimizers)
    dice, asker = Dice(f"language/{done}"), Asker(done)
    batches = epochs(len(store), CLIPS, store.lengths, np.random.default_rng(done))
    tally = Tally()
    for number in range(done, steps):
        set_rate(optimizers, RATE, number, steps)
        step = prepare([store[n] for n in next(batches)], wording, asker, dice)
        losses = losses_of(model, heads, step, wording, embed(model, step.batch, step.visual))
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_([p for part in parts.values() for p in part.parameters()], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tally.add(step, losses)
        full = (number + 1) % 25 == 0
        report(number + 1, tally.line() if full else "")
        tally = Tally() if full else tally
        if (number + 1) % 100 == 0 or number + 1 == steps:
            save_run(run, parts, optimizers, number + 1)


class Tally:
    """Running means between two reports."""

    def __init__(self) -> None:
        self._facts = torch.zeros(len(FACTS), 2)
        self._losses: list[tuple[float, float, float, float]] = []
        self._asked: Counter[str] = Counter()
        self._right: Counter[str] = Counter()
        self._state = torch.zeros(len(ASKED), 2)

    def add(self, step: Step, losses: Losses) -> None:
        """Take one step in."""
        self._losses.append((losses.answer, losses.word, losses.choice, losses.state))
        self._facts += losses.facts
        for question, right in zip(step.questions, losses.right, strict=True):
            self._asked[question.template] += 1
            self._right[question.template] += right
        self._state += losses.state_right

    def line(self) -> str:
        """Return it as text."""
        answer, word, choice, state = np.mean(self._losses, axis=0)
        total = sum(self._right.values()) / sum(self._asked.values())
        each = " ".join(f"{t.name} {self._right[t.name] / max(self._asked[t.name], 1):.2f}" for t in TEMPLATES)
        state_of = torch.zeros(len(TEMPLATES), 2).index_add(0, torch.tensor([place for place, _ in ASKED]), self._state)
        states = " ".join(f"{share:.2f}" for share in state_of[:, 0] / state_of[:, 1])
        losses = f"answer {answer:.3f} word {word:.3f} choice {choice:.3f} state {state:.3f}"
        facts = " ".join(f"{share:.2f}" for share in self._facts[:, 0] / self._facts[:, 1])
        return f"right {total:.3f} {losses} facts {facts} | {each} | {states}"
