"""A bundle as a model of lmms-eval: the video of a request is streamed, and its question is asked at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from stc_engines.opening import open_backend
from stc_export.spec.errors import UnsupportedError, UsageError
from stc_export.spec.policy import policy_from_argument
from stc_runtime import StreamSession
from stc_runtime.video import read_frames

#: Most tokens of an answer where a task does not say.
_MAX_TOKENS = 128


def manifest() -> ModelManifest:
    """Return what lmms-eval needs to find the model under the name ``stc``."""
    return ModelManifest(model_id="stc", simple_class_path="stc_lmms_eval.Stc")


class Stc(lmms):  # type: ignore[misc] - lmms-eval has no types
    """A bundle that watches a video as a stream and answers greedily.

    Args:
        bundle: Directory that ``stc-export build`` wrote.
        policy: ``adaptive``, ``paper``, ``off`` or a JSON file; by default the bundle's own.
        fps: Frames to take per second of video. Tasks of lmms-eval leave the sampling to the model.
        batch_size: Must be 1, since a stream has one video.
        threads: Threads of the backend; by default its own choice.
        others: What lmms-eval passes to every model (``device``, ``max_batch_size``); the bundle's target decides.

    Raises:
        StcError: The bundle or the policy cannot be used, or a flag is wrong.
    """

    is_simple = True

    def __init__(
        self,
        bundle: str,
        policy: str | None = None,
        fps: float | str = 1.0,
        batch_size: int | str = 1,
        threads: int | str | None = None,
        **others: object,
    ) -> None:
        super().__init__()
        unknown = set(others) - {"device", "max_batch_size"}
        if unknown:
            raise UsageError(f"model_args has {sorted(unknown)[0]}, which this model does not take.", "Leave it out.")
        if int(batch_size) != 1:
            raise UsageError(f"batch_size is {batch_size}, expected 1: a stream has one video.", "Set batch_size to 1.")
        chosen = None if policy is None else policy_from_argument(policy, Path(policy))
        backend = open_backend(bundle, None if threads is None else int(threads))
        self._session = StreamSession.open(bundle, chosen, backend)
        self._fps = float(fps)
        self._watched: tuple[str, ...] = ()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer requests, one after the other.

        Args:
            requests: Each has in ``args`` the question, the settings of generation, a function from a document to
                paths of videos, and the document's number, task and split.

        Raises:
            StcError: A video or question cannot be taken, or the task asks for sampling.
        """
        return [self._answer(*request.args) for request in requests]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse: a session gives answers, no likelihoods."""
        raise UnsupportedError(
            f"{len(requests)} requests ask for likelihoods, which a session does not give.",
            "Choose a task with output_type: generate_until.",
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: each round of such a task has its own video."""
        raise UnsupportedError(
            f"{len(requests)} requests have several rounds, which this model does not take.",
            "Choose a task with output_type: generate_until; stc-export validate has OVO-Bench whole.",
        )

    def _answer(
        self,
        question: str,
        settings: Mapping[str, Any],
        doc_to_visual: Callable[[Any], Sequence[object]],
        doc_id: int,
        task: str,
        split: str,
    ) -> str:
        if settings.get("do_sample"):
            raise UnsupportedError(
                f'Task "{task}" samples its answers.', "Set do_sample to false in generation_kwargs."
            )
        self._watch(_paths(task, doc_to_visual(self.task_dict[task][split][doc_id])))
        most = int(settings.get("max_new_tokens", _MAX_TOKENS))
        text = "".join(piece.text for piece in self._session.ask(question, max_tokens=most))
        text = _until(text, settings.get("until", ()))
        self.cache_hook.add_partial("generate_until", (question, settings), text)
        return text

    def _watch(self, videos: tuple[str, ...]) -> None:
        """Stream videos one after the other; a further question about the same needs no second time."""
        if videos == self._watched:
            return
        self._watched = ()
        self._session.reset()
        start_s = 0.0
        for video in videos:
            last_s = start_s
            for frame, seconds in read_frames(video, self._fps):
                last_s = start_s + seconds
                self._session.push(frame, last_s)
            start_s = last_s + 1.0 / self._fps
        self._watched = videos


def _paths(task: str, visuals: Sequence[object]) -> tuple[str, ...]:
    paths = tuple(visual for visual in visuals if isinstance(visual, str))
    if not paths or len(paths) != len(visuals):
        raise UnsupportedError(
            f'Task "{task}" shows {len(visuals)} things of which {len(paths)} are files, expected videos.',
            "Choose a task about videos.",
        )
    return paths


def _until(text: str, ends: str | Sequence[str]) -> str:
    """Cut a text before the first of its ends; an end at its very start is ignored, as models begin with new lines."""
    for end in [ends] if isinstance(ends, str) else ends:
        head, found, _ = text.lstrip().partition(end) if end else (text, "", "")
        text = head if found else text
    return text
