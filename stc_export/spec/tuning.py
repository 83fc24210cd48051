"""What tuning a policy found: ``calib/policy.json`` of a bundle, and beside it the evidence, schema ``stc.tuning/1``.

The manifest does not list them: like engines they are made on a device, after the bundle. A tuned policy is used where
it is asked for, by ``--policy tuned``, and only with the very bundle that it was tuned for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_export.spec import codec
from stc_export.spec.errors import PolicyError
from stc_export.spec.files import read_bytes, read_text
from stc_export.spec.manifest import MANIFEST_NAME, read_manifest
from stc_export.spec.policy import Policy, policy_from_text

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "stc.tuning/1"
#: What ``--policy`` calls a bundle's tuned policy.
TUNED = "tuned"
POLICY_NAME, RECORD_NAME, PICTURE_NAME = "calib/policy.json", "calib/tuning.json", "calib/tuning.png"
#: Folder of the rows behind the record, and what is in it.
ROWS_NAME = "calib/tuning"
#: Everything that tuning writes into a bundle.
TUNING_FILES = (POLICY_NAME, RECORD_NAME, PICTURE_NAME, f"{ROWS_NAME}/plan.json", f"{ROWS_NAME}/results.jsonl")
_MOST_POLICY_BYTES = 1024 * 1024
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class TuningData:
    """What the search looked at.

    Attributes:
        task: Name of the task.
        sha256: Digest of the videos or annotation files; "" without any.
        fps: Frames per second that were taken; ``None``: clips were generated.
        asked: Questions that every clip was asked; empty where each has its own.
        clips: Clips that were searched on.
        questions: Questions about them that the uncompressed model answered right; all of them without labels.
        held_out_clips: Clips that only the final figures come from.
        held_out_questions: Questions about those, counted in the same way.
    """

    task: str
    sha256: str
    fps: float | None
    asked: tuple[str, ...]
    clips: int
    questions: int
    held_out_clips: int
    held_out_questions: int


@dataclass(frozen=True)
class TriedPolicy:
    """What a candidate gave in the search.

    Attributes:
        name: Its name, which says its settings.
        clips: Clips that it was watched on.
        questions: Questions about them that the uncompressed model answered right.
        kept: Those that it answered right, too.
        cost: Multiply-accumulates of ViT and prefill, as a share of those of the uncompressed model.
        frame_ms: Mean time of a frame.
        divergence: Mean KL divergence of the first tokens in nats; 0 where it was not compared.
        on_front: No other candidate kept at least the same share at the same cost or less, and was better in one.
    """

    name: str
    clips: int
    questions: int
    kept: int
    cost: float
    frame_ms: float
    divergence: float
    on_front: bool


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; ``None`` where there are too few clips for one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class HeldOutPolicy:
    """What a policy gave on the clips that the search did not look at.

    Attributes:
        name: Name of the candidate.
        questions: Questions that the uncompressed model answered right.
        kept: Share of them that it answered right, too, with Wilson's interval.
        by_clips: The same share with the interval of a bootstrap that draws whole clips.
        right: Share of right answers among all questions; without labels that is agreement.
        cost: Multiply-accumulates of ViT and prefill, as a share of those of the uncompressed model.
        vit_prefill_ms: Mean time of ViT and prefill per frame.
        frame_ms: Mean time of a frame: gate, ViT, pruner and prefill.
        frame_p95_ms: Its 95th percentile.
        feature_cosine: Mean cosine of ViT features with the uncompressed ones; ``None`` where it was not compared.
        divergence: Mean KL divergence of the first tokens in nats; ``None`` where it was not compared.
    """

    name: str
    questions: int
    kept: Estimate
    by_clips: Estimate
    right: float
    cost: float
    vit_prefill_ms: float
    frame_ms: float
    frame_p95_ms: float
    feature_cosine: float | None
    divergence: float | None


@dataclass(frozen=True)
class TuningMachine:
    """Where it was measured.

    Attributes:
        cpu: Name of the CPU.
        board: Name of the board; ``None`` where it has none.
        threads: Threads of the backend; ``None``: its own choice.
        system: Operating system and architecture.
        stc_export: Our version.
    """

    cpu: str
    board: str | None
    threads: int | None
    system: str
    stc_export: str | None


@dataclass(frozen=True)
class TuningRecord:
    """Content of ``tuning.json``.

    Attributes:
        schema: ``stc.tuning/1``.
        command: What was typed.
        manifest_sha256: Digest of the bundle's manifest, which holds the digests of all its files.
        target: Target of the bundle.
        budget: What was asked for: ``accuracy`` or ``latency_ms``.
        value: How much of it.
        met: Whether the chosen policy meets it, in the search and on the held-out clips.
        verdict: That in words.
        chosen: Name of the chosen policy.
        policy: The policy.
        data: What was looked at.
        tried: All candidates that were watched, on the clips for screening.
        confirmed: Those that were watched on more clips, in the order in which that was done.
        held_out: The uncompressed model, the published policy and the chosen one on the held-out clips.
        machine: Where it was measured.
    """

    schema: str
    command: str
    manifest_sha256: str
    target: str
    budget: str
    value: float
    met: bool
    verdict: str
    chosen: str
    policy: Policy
    data: TuningData
    tried: tuple[TriedPolicy, ...]
    confirmed: tuple[TriedPolicy, ...]
    held_out: tuple[HeldOutPolicy, ...]
    machine: TuningMachine


def read_tuning(bundle: Path) -> TuningRecord | None:
    """Read the evidence of a bundle's tuned policy; ``None`` where there is none.

    Raises:
        PolicyError: It cannot be read, or is no evidence of this version.
    """
    path = bundle / RECORD_NAME
    if not path.exists():
        return None
    try:
        record = codec.from_json(TuningRecord, read_text(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise PolicyError(f'"{path}" cannot be used ({error}).', "Run stc-export calibrate again.") from error
    if record.schema != SCHEMA:
        raise PolicyError(f'"{path}" has schema "{record.schema[:40]}", expected "{SCHEMA}".', "Update stc-export.")
    return record


def manifest_digest(bundle: Path) -> str:
    """Return the SHA-256 of a bundle's manifest.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no plain file, or too large.
    """
    return hashlib.sha256(read_bytes(bundle / MANIFEST_NAME, _MOST_BYTES)).hexdigest()


def tuned_policy(bundle: Path) -> Policy:
    """Return the policy that was tuned for a bundle.

    Raises:
        PolicyError: There is none, it was tuned for another build, or the file is not what was tuned.
        BundleError: There is no bundle.
    """
    record = read_tuning(bundle)
    again = f"Run stc-export calibrate {bundle} again, or name {POLICY_NAME} with --policy to use it all the same."
    if record is None:
        read_manifest(bundle)  # what is no bundle at all has an error of its own
        raise PolicyError(f'"{bundle}" holds no tuned policy.', f"Run stc-export calibrate {bundle} first.")
    try:
        digest, text = manifest_digest(bundle), read_text(bundle / POLICY_NAME, _MOST_POLICY_BYTES)
    except (OSError, ValueError) as error:
        raise PolicyError(f'The tuned policy of "{bundle}" cannot be used ({error}).', again) from error
    if digest != record.manifest_sha256:
        raise PolicyError(
            f'The tuned policy of "{bundle}" belongs to another build of it: the manifest was '
            f"{record.manifest_sha256[:12]}, here {digest[:12]}.",
            again,
        )
    if policy_from_text(text, POLICY_NAME) != record.policy:
        raise PolicyError(f'"{bundle / POLICY_NAME}" is not the policy that was tuned: it was changed.', again)
    return record.policy
