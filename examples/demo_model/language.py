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
from pointer import pointer_scores
from state_io import load_run, save_run
from torch.nn import functional

from stc_export.world.dice import Dice
from stc_export.world.questions import LETTERS, TEMPLATES, Question, choose_options

#: Clips per step: few at first, when every step teaches something, more when that would be too noisy.
FEW, MORE, MORE_FROM = 4, 8, 2000
#: Questions per clip.
QUESTIONS = 10
RATE = 2e-3
#: Percent of the steps that see every token, and shares of :func:`thin`'s ways in the others.
_WHOLE, _COMPLETE, _SALIENT = 10, 70, 90
#: Weight of a template that never goes wrong, beside the share that does, and how much of that a question changes.
_BASE, _MEMORY = 0.1, 0.01
#: Weight of what teaches to see and to remember at the end of the training; it starts with 1.
_LEAST_SUPPORT = 0.1
#: Layer after which a question's end must know what is asked.
ASKED_LAYER = 2
#: Layer after which a token must know what is in it.
FACT_LAYER = 3
#: Layer after which a frame's last token must know the answers to all questions: the ones above it read them.
STATE_LAYER = 4
#: Layer after which the end of a question and the place of the answer must know the answer (the former, if it can be
#: seen now, one layer earlier), and each option whether it is right.
CHOICE_LAYER = 5


class Asker:
    """Draws questions about clips: more of the templates that go wrong, and all answers of a template equally often.

    Args:
        seed: Of its choices.
    """

    def __init__(self, seed: int) -> None:
        self._dice = Dice(f"asker/{seed}")
        self._count: Counter[tuple[int, int]] = Counter()
        self._wrong = {template.name: 1.0 for template in TEMPLATES}

    def ask(self, answers: npt.NDArray[np.int64], count: int) -> list[tuple[Question, int]]:
        """Return questions about one clip, each with the column of :data:`clips.ASKED` that it is about."""
        return [self._one(answers) for _ in range(count)]

    def learn(self, questions: list[Question], right: list[bool]) -> None:
        """Take in which questions were answered right."""
        for question, good in zip(questions, right, strict=True):
            self._wrong[question.template] += _MEMORY * ((not good) - self._wrong[question.template])

    def _template(self) -> int:
        weights = [round(100 * (_BASE + self._wrong[template.name])) for template in TEMPLATES]
        drawn = self._dice.between(1, sum(weights))
        return next(place for place in range(len(weights)) if sum(weights[: place + 1]) >= drawn)

    def _one(self, answers: npt.NDArray[np.int64]) -> tuple[Question, int]:
        place = self._template()
        columns = [column for column, (template, _) in enumerate(ASKED) if template == place]
        table = answers[:, columns]
        values = [int(v) for v in np.unique(table) if v != IGNORE]
        if not values:
            return self._one(answers)
        value = min(values, key=lambda v: (self._count[place, v], v))
        self._count[place, value] += 1
        frame, chosen = (int(n) for n in self._dice.pick(np.argwhere(table == value)))
        column = columns[chosen]
        template = TEMPLATES[place]
        options, right = choose_options(template, template.values[value], self._dice)
        text = template.text.format(template.subjects[ASKED[column][1]])
        return Question(template.name, template.group, frame, float(frame), text, options, right), column


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
    asked: torch.Tensor
    visual: torch.Tensor
    answers: torch.Tensor
    facts: torch.Tensor


def prepare(clips: list[Encoded], wording: Wording, asker: Asker, dice: Dice) -> Step:
    """Draw tokens and questions for a batch of clips."""
    whole = dice.chance(_WHOLE)
    kept = [thin(clip, dice, whole=whole) for clip in clips]
    drawn = [asker.ask(clip.answers, QUESTIONS) for clip in clips]
    questions = [[question for question, _ in asked] for asked in drawn]
    seen = [(clip, f, tokens) for clip, k in zip(clips, kept, strict=True) for f, tokens in enumerate(k)]
    return Step(
        pack(wording, [[len(tokens) for tokens in k] for k in kept], questions),
        [question for asked in questions for question in asked],
        torch.tensor([column for asked in drawn for _, column in asked]),
        torch.tensor(np.concatenate([clip.tokens[f][tokens] for clip, f, tokens in seen])).float(),
        torch.tensor(np.concatenate([clip.answers for clip in clips])),
        torch.tensor(np.concatenate([clip.facts[f][tokens, 1:] for clip, f, tokens in seen])).long(),
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
        asked: Of a question's end: what is asked. Nothing can be looked up before that is known.
        choice: Of an option's last token: whether it is right.
        letter: Of the same: its letter.
    """

    state: Readings
    facts: Readings
    choice: Readings
    letter: Readings
    asked: Readings


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
        Readings([len(ASKED)]),
    )


@dataclass(frozen=True)
class Losses:
    """What a step gives."""

    total: torch.Tensor
    answer: float
    word: float
    choice: float
    asked: float
    again: float
    pointer: float
    own: float
    state: float
    facts: torch.Tensor
    right: list[bool]
    state_right: torch.Tensor


def losses_of(model: Any, heads: Heads, step: Step, wording: Wording, inputs: torch.Tensor, support: float) -> Losses:
    """Return the losses of a batch.

    ``support`` weighs state and facts. They teach to see and to remember; once that is learned they only disturb.
    """
    states = run_llm(model, step.batch, inputs)
    middle, late, final = states[STATE_LAYER], states[CHOICE_LAYER], states[-1]
    letters = torch.tensor([wording.letters[q.right] for q in step.questions])
    logits = model.lm_head(final[step.batch.places])
    answer = functional.cross_entropy(logits, letters)
    end = functional.cross_entropy(model.lm_head(final[step.batch.places + 1]), torch.full_like(letters, wording.end))
    words = torch.tensor([wording.words[q.options[q.right]] for q in step.questions])
    marks = step.batch.marks
    word, early = (_word_loss(model, layer[marks], words) for layer in (late, middle))
    again = _word_loss(model, late[step.batch.places], words)
    asked = functional.cross_entropy(heads.asked(states[ASKED_LAYER][marks])[0], step.asked)
    right = torch.tensor([question.right for question in step.questions])
    options = late[step.batch.options]
    choice = functional.cross_entropy(heads.choice(options)[0].squeeze(-1), right)
    own_words = torch.tensor([wording.words[option] for q in step.questions for option in q.options])
    own = _word_loss(model, options.flatten(0, 1), own_words)
    pointer = functional.cross_entropy(pointer_scores(model, step.batch, late), right)
    letter = functional.cross_entropy(heads.letter(options)[0].flatten(0, 1), torch.arange(4).repeat(len(options)))
    total = answer + 0.1 * end + word + again + 0.5 * early + 2.0 * asked + choice + pointer + own + 0.3 * letter
    state, state_right = heads.state.losses(middle[step.batch.last], step.answers)
    facts, facts_right = heads.facts.losses(states[FACT_LAYER][step.batch.visual], step.facts)
    return Losses(
        total + support * (2.0 * state.mean() + facts.sum()),
        answer.item(),
        word.item(),
        choice.item(),
        asked.item(),
        again.item(),
        pointer.item(),
        own.item(),
        state.mean().item(),
        facts_right,
        (logits.argmax(-1) == letters).tolist(),
        state_right,
    )


def _word_loss(model: Any, hidden: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model.lm_head(model.model.language_model.norm(hidden)), words)


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
        "asked": heads.asked,
    }
    optimizers = make_optimizers(list(parts.values()), RATE)
    done = load_run(run, parts, optimizers)
    dice, asker = Dice(f"language/{done}"), Asker(done)
    batches = epochs(len(store), _clips_at(done), store.lengths, np.random.default_rng(done))
    tally = Tally()
    for number in range(done, steps):
        if number == MORE_FROM:
            batches = epochs(len(store), MORE, store.lengths, np.random.default_rng(number))
        set_rate(optimizers, RATE, number, steps)
        step = prepare([store[n] for n in next(batches)], wording, asker, dice)
        inputs, support = embed(model, step.batch, step.visual), max(_LEAST_SUPPORT, 1 - number / steps)
        losses = losses_of(model, heads, step, wording, inputs, support)
        asker.learn(step.questions, losses.right)
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


def _clips_at(step: int) -> int:
    return FEW if step < MORE_FROM else MORE


class Tally:
    """Running means between two reports."""

    def __init__(self) -> None:
        self._facts = torch.zeros(len(FACTS), 2)
        self._losses: list[tuple[float, ...]] = []
        self._asked: Counter[str] = Counter()
        self._right: Counter[str] = Counter()
        self._state = torch.zeros(len(ASKED), 2)

    def add(self, step: Step, losses: Losses) -> None:
        """Take one step in."""
        self._losses.append(
            (
                losses.answer,
                losses.word,
                losses.again,
                losses.pointer,
                losses.own,
                losses.asked,
                losses.choice,
                losses.state,
            )
        )
        self._facts += losses.facts
        for question, right in zip(step.questions, losses.right, strict=True):
            self._asked[question.template] += 1
            self._right[question.template] += right
        self._state += losses.state_right

    def line(self) -> str:
        """Return it as text."""
        answer, word, again, pointer, own, asked, choice, state = np.mean(self._losses, axis=0)
        shares = {t.name: self._right[t.name] / max(self._asked[t.name], 1) for t in TEMPLATES}
        total = sum(shares.values()) / len(shares)
        each = " ".join(f"{name} {share:.2f}" for name, share in shares.items())
        state_of = torch.zeros(len(TEMPLATES), 2).index_add(0, torch.tensor([place for place, _ in ASKED]), self._state)
        states = " ".join(f"{share:.2f}" for share in state_of[:, 0] / state_of[:, 1])
        losses = f"answer {answer:.3f} word {word:.3f} again {again:.3f} pointer {pointer:.3f} own {own:.3f}"
        losses += f" asked {asked:.3f} choice {choice:.3f} state {state:.3f}"
        facts = " ".join(f"{share:.2f}" for share in self._facts[:, 0] / self._facts[:, 1])
        return f"right {total:.3f} {losses} facts {facts} | {each} | {states}"
