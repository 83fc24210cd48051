"""Write generated videos to tune a policy on: a fixed camera, and the same scenes seen by one that pans.

    python benchmarks/tuning_videos.py OUT [--videos 8] [--seconds 120] [--objects]

OUT gets the folders ``still`` and ``pan``. Scenes are those clips of the world's validation split, in the order of
their numbers, that have three objects and no camera cut, told anew with few values, so that every question below has
its right answer among its options at any time. Sign and lamp are what the demo model tells best without compression (98
and 100 % of the frozen test set): what it tells by chance, any change of its input turns around. With --objects a third
question is about an object. The command that searches, with the questions, is printed.
"""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import count, islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from stc_export.world.questions import LETTERS
from stc_export.world.render import Renderer
from stc_export.world.scene import COLOURS, SHAPES, SIDE, Clip
from stc_export.world.script import write_clip

#: Shapes, colours of the lamp and digits are the first ones; the first object is red.
QUESTIONS = (
    ("What does the sign show now?", ("0", "1", "2", "none")),
    ("What colour is the lamp now?", COLOURS[:4]),
)
OBJECTS = (("Which object is red now?", (*SHAPES[:3], "none")),)
#: A camera that pans: the picture moves so many pixels to either side, and as many in all down and up, in one turn.
_SWAY, _TURN_S = 16, 6.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--videos", type=int, default=8, help="scenes")
    parser.add_argument("--seconds", type=int, default=120, help="length of each")
    parser.add_argument("--objects", action="store_true", help="ask about an object, too")
    options = parser.parse_args(arguments)
    for folder in ("still", "pan"):
        (options.out / folder).mkdir(parents=True)
    for clip in islice(scenes(options.seconds), options.videos):
        name = clip.name.replace("/", "-") + ".mkv"
        frames = list(Renderer(clip).frames())
        write_video(options.out / "still" / name, clip.fps, frames)
        write_video(options.out / "pan" / name, clip.fps, panned(frames, clip.fps))
    asked = " ".join(f"--ask {shlex.quote(prompt)}" for prompt in prompts(objects=options.objects))
    print(f"stc-export calibrate BUNDLE --data {options.out / 'still'} --fps 2 --budget accuracy=0.99 {asked}")
    return 0


def prompts(*, objects: bool) -> tuple[str, ...]:
    """Return the questions as they are put to the demo model."""
    return tuple(
        text + "\n" + " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, offered, strict=True))
        for text, offered in (*QUESTIONS, *(OBJECTS if objects else ()))
    )


def scenes(seconds: int) -> Iterator[Clip]:
    """Yield scenes that the questions fit."""
    for number in count():
        clip = write_clip(f"validation/{number}", seconds)
        if len(clip.things) == 3 and len(clip.backgrounds) == 1:
            yield told_anew(clip)


def told_anew(clip: Clip) -> Clip:
    """Return a clip in which objects, lamp and sign have the values that are asked about."""
    return replace(
        clip,
        things=tuple(replace(thing, shape=place, colour=place) for place, thing in enumerate(clip.things)),
        lamp=tuple(replace(span, value=span.value % 4) for span in clip.lamp),
        sign=tuple(replace(span, value=span.value % 3) for span in clip.sign),
    )


def panned(frames: list[NDArray[np.uint8]], fps: int) -> Iterator[NDArray[np.uint8]]:
    """Yield frames [H, W, 3] as a camera sees them that never rests; sign and lamp stay in the picture."""
    for number, frame in enumerate(frames):
        turn = 2 * math.pi * number / (fps * _TURN_S)
        right, down = round(_SWAY * math.sin(turn)), round(_SWAY * (1 - math.cos(turn)) / 2)
        wide = np.pad(frame, ((_SWAY, 0), (_SWAY, _SWAY), (0, 0)), mode="edge")
        top, left = _SWAY - down, _SWAY - right
        yield wide[top : top + frame.shape[0], left : left + frame.shape[1]]


def write_video(path: Path, fps: int, frames: Iterator[NDArray[np.uint8]] | list[NDArray[np.uint8]]) -> None:
    """Write frames without loss."""
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "bgr0"
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = number
            container.mux(stream.encode(picture.reformat(format="bgr0")))
        container.mux(stream.encode())


if __name__ == "__main__":
    raise SystemExit(main())
