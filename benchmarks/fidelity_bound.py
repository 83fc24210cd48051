"""What the best choice of recomputed tokens could reach, known only in hindsight; writes results/fidelity-bound.json.

    python benchmarks/fidelity_bound.py [--clips vtest pianist] [--assets DIR] [--threads N] [--out FILE]

A token of a frame is either recomputed, or it takes the delta of the frame in which it last was. If recomputing gave
what dense encoding gives, tokens would not depend on each other, and the cheapest times to recompute one would follow
from its errors in all frames. That bounds every choice of tokens and every placement of full frames, as long as the
other tokens are left as they are. Two things stand between it and a gate: no gate knows these errors, and a recomputed
token attends to others that are stale. So the same choice is also encoded by real selective passes; what it loses
there is the second thing.

Costs are two thirds of those of the published settings, whose fidelity is read from the results of `fidelity.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from dinov2 import Cache, DinoV2, cosine, gate_pass, load
from fidelity import ASSETS, CLIPS, RESULTS, WEIGHTS, Clip, Record, read_clip, score
from fidelity_policies import paper_name

from examples.real_videos import fetch, fetch_member
from stc_export.pipeline.bench.record import Environment, command_line, load_average, read_environment
from stc_export.spec import codec
from stc_export.spec.errors import StcError
from stc_export.spec.files import write_file

BOUNDS = RESULTS.with_name("fidelity-bound.json")
#: Published intervals that are compared with.
INTERVALS = (2, 4, 8)
#: Published work, divided by what is wanted.
GAIN = 1.5
_STEPS = 16


@dataclass(frozen=True)
class Bound:
    """The best choice at one cost, on one clip.

    Attributes:
        clip: Name of the clip.
        published: Name of the published setting.
        mean: Its mean fidelity.
        worst: That of its worst frame.
        cost: Its cost divided by :data:`GAIN`.
        exact: Mean fidelity of the best choice at this cost, if recomputed tokens were exact.
        encoded: Fidelity of each frame when the same choice is encoded.
        least_cost: Cost of the best choice as close as the published setting, if recomputed tokens were exact.
    """

    clip: str
    published: str
    mean: float
    worst: float
    cost: float
    exact: float
    encoded: tuple[float, ...]
    least_cost: float


@dataclass(frozen=True)
class Bounds:
    """What the file holds: where it was computed, and a row per clip and published setting."""

    schema: str
    command: str
    weights: str
    environment: Environment
    rows: tuple[Bound, ...]


def stale_errors(model: DinoV2, clip: Clip) -> torch.Tensor:
    """Return 1 - fidelity [n, n, T] of each token: in frame t (second axis) with the delta of frame s < t; else 0."""
    everything = torch.arange(model.vision.tokens)
    deltas = [gate_pass(model, one, everything, None)[1].delta[0] for one in clip.embeddings]
    count = len(deltas)
    errors = torch.zeros(count, count, model.vision.tokens)
    for now, (embeddings, dense) in enumerate(zip(clip.embeddings, clip.dense, strict=True)):
        start = model.start(embeddings)
        for then in range(now):
            errors[then, now] = 1 - cosine(model.features(start + deltas[then]), dense)
    return errors


def best_choice(errors: torch.Tensor, price: float) -> torch.Tensor:
    """Return which tokens to recompute, bool [n, T], so that errors plus ``price`` per recomputed token are least.

    Args:
        errors: As of :func:`stale_errors`. The first frame is recomputed whatever it costs.
        price: Of one token of one frame, above 0.
    """
    count, tokens = errors.shape[1:]
    least, following = torch.zeros(count + 1, tokens), torch.zeros(count, tokens, dtype=torch.int64)
    for now in reversed(range(count)):  # recomputed now and next in frame n: errors in between, then the best from n
        until = torch.cat([torch.zeros(1, tokens), errors[now, now + 1 :].cumsum(0)])
        best = (until + least[now + 1 :]).min(0)
        least[now], following[now] = best.values + price, best.indices + now + 1
    chosen, following_one = torch.zeros(count, tokens, dtype=torch.bool), torch.zeros(tokens, dtype=torch.int64)
    for now in range(count):
        chosen[now] = following_one == now
        following_one = torch.where(chosen[now], following[now], following_one)
    return chosen


def exact_mean(errors: torch.Tensor, chosen: torch.Tensor) -> float:
    """Return the mean fidelity of a choice [n, T] if recomputed tokens were exact."""
    tokens = torch.arange(chosen.shape[1])
    then, total = torch.zeros_like(tokens), 0.0
    for now, recomputed in enumerate(chosen):
        then = torch.where(recomputed, now, then)
        total += float(errors[then, now, tokens].mean())
    return 1 - total / len(chosen)


def cost_of(chosen: torch.Tensor) -> float:
    """Return the cost of a choice [n, T]: with selection ``gate`` it is the share of tokens."""
    return float(chosen.float().mean())


def cheapest(errors: torch.Tensor, wanted: float) -> torch.Tensor:
    """Return the best choice with at least a mean fidelity, if recomputed tokens were exact."""
    low, high = 1e-7, 1.0
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        fine = exact_mean(errors, best_choice(errors, middle)) >= wanted
        low, high = (middle, high) if fine else (low, middle)
    return best_choice(errors, low)


def closest(errors: torch.Tensor, most: float) -> torch.Tensor:
    """Return the best choice with at most a cost."""
    low, high = 1e-7, 1.0
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        fine = cost_of(best_choice(errors, middle)) <= most
        low, high = (low, middle) if fine else (middle, high)
    return best_choice(errors, high)


def encode(model: DinoV2, clip: Clip, chosen: torch.Tensor) -> Iterator[float]:
    """Encode a clip with a choice [n, T] by real passes, and yield the fidelity of each frame."""
    cache: Cache | None = None
    for embeddings, dense, recomputed in zip(clip.embeddings, clip.dense, chosen, strict=True):
        features, cache = gate_pass(model, embeddings, recomputed.nonzero()[:, 0], cache)
        yield round(float(cosine(features, dense).mean()), 5)


def bounds(model: DinoV2, clip: Clip, record: Record) -> Iterator[Bound]:
    """Yield a row per published setting."""
    errors = stale_errors(model, clip)
    runs = {run.name: run for run in record.runs if run.clip == clip.name}
    for name in map(paper_name, INTERVALS):
        reached = score(record.vision, runs[name])
        chosen = closest(errors, reached.cost / GAIN)
        yield Bound(
            clip=clip.name,
            published=name,
            mean=round(reached.mean, 5),
            worst=reached.worst,
            cost=round(cost_of(chosen), 4),
            exact=round(exact_mean(errors, chosen), 5),
            encoded=tuple(encode(model, clip, chosen)),
            least_cost=round(cost_of(cheapest(errors, reached.mean)), 4),
        )


def table(rows: Sequence[Bound]) -> str:
    """Rows as a table."""
    lines = [
        "| clip, against | published: mean / worst | cost | exact | encoded: mean / worst | least cost |",
        "|---|---|---:|---:|---|---:|",
    ]
    for row in rows:
        mean, worst = sum(row.encoded) / len(row.encoded), min(row.encoded)
        lines.append(
            f"| {row.clip}, {row.published} | {row.mean:.4f} / {row.worst:.3f} | {row.cost:.3f} | {row.exact:.4f} "
            f"| {mean:.4f} / {worst:.3f} | {row.least_cost:.3f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    torch.set_num_threads(given.threads)
    environment = read_environment(given.threads, load_average())
    try:
        record = codec.from_json(Record, RESULTS.read_text(encoding="utf-8"))
        model = load(fetch_member(WEIGHTS, given.assets))
        rows: list[Bound] = []
        with torch.inference_mode():
            for name in given.clips:
                clip = read_clip(model, name, fetch(name, given.assets), record.fps, record.frames)
                rows.extend(bounds(model, clip, record))
    except StcError as error:
        print(f"error: {error.problem}\n  fix: {error.fix}", file=sys.stderr)
        return error.exit_code
    found = Bounds("stc.fidelity-bound/1", command_line(), WEIGHTS.sha256, environment, tuple(rows))
    write_file(json.dumps(asdict(found), indent=1).encode() + b"\n", given.out)
    print(table(rows))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=("vtest", "pianist"), help="fixed cameras")
    parser.add_argument("--threads", type=int, default=1, help="threads inside an operator (1)")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of videos and weights")
    parser.add_argument("--out", type=Path, default=BOUNDS, help="file of the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
