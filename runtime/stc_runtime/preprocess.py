"""Check a frame and resize it to the model's square: Pillow's numbers, with numpy alone.

Pillow resizes 8-bit pictures in two passes, one along the rows and one along the columns, with 22-bit fixed-point
weights, and rounds to 8 bits after each. A pass is a product with a narrow band matrix. Here the band is cut into
blocks of a few outputs, and each block is one small matrix product in float64: a weight times 2**22 and a pixel are
integers whose sums stay far below 2**53, so no product or sum is rounded and the result is Pillow's, bit for bit, on
every machine and BLAS.

The picture in between is rounded and clipped, so the order of the passes shows in the result. It is that of Pillow 13
(:func:`columns_first`), and so that of a checkpoint's own processor when it runs on Pillow 13. Of the older versions,
12.2 and 12.3 start with the columns where a frame is more than 100 times as high as wide, the others never. So portrait
frames that they prepared (more exactly, those for which :func:`columns_first` is true) differ from these: up to a
quarter of the values, nearly all by one level of 0..255, by up to 3 in soft pictures, and by more where hard edges
overshoot and are clipped in between (15 in a surveillance film, 30 in black and white noise). Landscape and square
frames are the same in every version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stc_export.spec.manifest import PreprocessSpec

    Frame = NDArray[np.uint8]
    Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]

#: Pillow keeps this many bits of a weight: 32 less 8 for the pixel and 2 for sign and overshoot.
_WEIGHT_BITS = 22
#: Outputs per block: wider blocks multiply more zeros, narrower ones call BLAS more often.
_BLOCK = 16
#: Rows resized at once, and the most bytes their float64 copy may take: it has to stay in the processor's cache.
_STRIP_ROWS = 64
_STRIP_BYTES = 4 << 20


def check_frame(frame: object) -> Frame:
    """Return a frame as C-contiguous uint8 [H, W, 3]; only a frame that is not contiguous is copied.

    Raises:
        FrameError: Not a numpy array, or another dtype or shape, or no pixels.
    """
    if not isinstance(frame, np.ndarray):
        raise FrameError(
            f"The frame is a {type(frame).__name__}, expected a numpy array of uint8 [height, width, 3].",
            "Convert it first, for example with numpy.asarray(frame).",
        )
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise FrameError(
            f"The frame is {frame.dtype} {list(frame.shape)}, expected uint8 [height, width, 3].",
            _advice(frame),
        )
    if frame.size == 0:
        raise FrameError(
            f"The frame is {frame.shape[1]} pixels wide and {frame.shape[0]} high, expected at least 1 by 1.",
            "Skip empty frames before pushing them.",
        )
    return np.ascontiguousarray(frame)


def columns_first(height: int, width: int, size: int) -> bool:
    """Tell which pass comes first: along the columns (True), or along the rows.

    This is the rule of Pillow 13.0 (``ImagingResampleInner`` in ``Resample.c``), there to save time: where many rows
    go, they go first, and the other pass has fewer to resize. It counts pixels, not ratios, and is repeated as it is,
    since the order changes the result; see the module, also for older versions.

    Args:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        size: Side of the square, in pixels.
    """
    return height > size and height - size > 2 * (width - size)


class Resizer:
    """Resizes frames of any size to the square that a model expects, exactly as Pillow 13 does.

    Weights and work buffers are kept for the size seen last, so a stream of one size allocates only its results. One
    resizer belongs to one stream: it is not to be used from two threads at once.

    Args:
        spec: Side of the square and filter.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self._spec = spec
        self._plan: _NearestPlan | _FilterPlan | None = None

    def __call__(self, frame: Frame) -> Frame:
        """Resize a frame.

        Args:
            frame: RGB, uint8 [H, W, 3].

        Returns:
            uint8 [size, size, 3], contiguous; ``frame`` itself if it has that size already.

        Raises:
            FrameError: See :func:`check_frame`.
        """
        frame = check_frame(frame)
        height, width = frame.shape[:2]
        size = self._spec.size
        if (height, width) == (size, size):
            return frame
        if self._plan is None or (self._plan.height, self._plan.width) != (height, width):
            self._plan = _plan(height, width, self._spec)
        return self._plan.run(frame)


def _advice(frame: NDArray[Any]) -> str:
    if frame.dtype != np.uint8:
        return "Scale the values to 0..255 and convert them with frame.astype(numpy.uint8)."
    if frame.ndim == 2:
        return "Repeat a grey frame with numpy.stack([frame] * 3, axis=2)."
    if frame.ndim == 3 and frame.shape[0] == 3:
        return "Put the channels last with frame.transpose(1, 2, 0)."
    if frame.ndim == 3 and frame.shape[2] == 4:
        return "Drop the alpha channel with frame[:, :, :3]."
    return "Pass one RGB picture at a time."


def _plan(height: int, width: int, spec: PreprocessSpec) -> _NearestPlan | _FilterPlan:
    if spec.resample == "nearest":
        return _NearestPlan(height, width, spec.size)
    return _FilterPlan(height, width, spec)


class _NearestPlan:
    """The nearest pixel of each output."""

    def __init__(self, height: int, width: int, size: int) -> None:
        self.height, self.width = height, width
        self._rows = _nearest(height, size)[:, None]
        self._columns = _nearest(width, size)[None, :]

    def run(self, frame: Frame) -> Frame:
        return frame[self._rows, self._columns]


class _FilterPlan:
    """The passes of one frame size, in Pillow's order."""

    def __init__(self, height: int, width: int, spec: PreprocessSpec) -> None:
        self.height, self.width = height, width
        size = spec.size
        passes: list[_RowsPass | _ColumnsPass] = []
        # A side that has the right length needs no pass, and a second pass sees the frame that the first one left.
        if columns_first(height, width, size):
            passes.append(_ColumnsPass(height, width, spec))
            height = size
        if width != size:
            passes.append(_RowsPass(height, width, spec))
        if height != size:
            passes.append(_ColumnsPass(height, size, spec))
        *before, self._last = passes
        # Only the frame in between is kept for the next call; what the caller gets is always a new array.
        self._before = [(resize, resize.empty()) for resize in before]

    def run(self, frame: Frame) -> Frame:
        for resize, between in self._before:
            frame = resize.run(frame, between)
        return self._last.run(frame, self._last.empty())


class _RowsPass:
    """Makes every row of a frame as long as the square is wide."""

    def __init__(self, height: int, width: int, spec: PreprocessSpec) -> None:
        self._height, self._width, self._size = height, width, spec.size
        self._blocks = _blocks(width, spec.size, spec.resample)
        self._strip = max(1, min(_STRIP_ROWS, height, _STRIP_BYTES // (3 * 8 * width)))
        self._source = np.empty((3 * self._strip, width))
        self._wide = np.empty((3 * self._strip, spec.size))

    def empty(self) -> Frame:
        return np.empty((self._height, self._size, 3), np.uint8)

    def run(self, frame: Frame, result: Frame) -> Frame:
        # One plane per channel, the planes below each other: a product then runs over contiguous pixels of one colour.
        for first in range(0, self._height, self._strip):
            part = frame[first : first + self._strip]
            count = part.shape[0]
            source, wide = self._source[: 3 * count], self._wide[: 3 * count]
            source.reshape(3, count, self._width)[...] = part.transpose(2, 0, 1)
            for block in self._blocks:
                np.matmul(source[:, block.source], block.weights, out=wide[:, block.result])
            planes = _to_bytes(wide).reshape(3, count, self._size)
            result[first : first + count] = planes.transpose(1, 2, 0)
        return result


class _ColumnsPass:
    """Makes every column of a frame as long as the square is high."""

    def __init__(self, height: int, width: int, spec: PreprocessSpec) -> None:
        self._width, self._size = width, spec.size
        self._blocks = _blocks(height, spec.size, spec.resample)
        most = max(block.weights.shape[0] for block in self._blocks)
        self._strip = max(1, min(3 * width, _STRIP_BYTES // (8 * most)))
        self._source = np.empty((most, self._strip))

    def empty(self) -> Frame:
        return np.empty((self._size, self._width, 3), np.uint8)

    def run(self, frame: Frame, result: Frame) -> Frame:
        # The channels of a pixel are three columns like any others.
        lines, outputs = frame.reshape(-1, 3 * self._width), result.reshape(-1, 3 * self._width)
        for first in range(0, 3 * self._width, self._strip):
            strip = slice(first, first + self._strip)
            for block in self._blocks:
                part = lines[block.source, strip]
                source = self._source[: part.shape[0], : part.shape[1]]
                source[...] = part
                outputs[block.result, strip] = _to_bytes(block.weights.T @ source)
        return result


@dataclass(frozen=True)
class _Block:
    """A few neighbouring outputs of a pass.

    Attributes:
        source: Inputs that they need.
        result: Their places.
        weights: float64 [sources, results], multiples of 2**-22.
    """

    source: slice
    result: slice
    weights: NDArray[np.float64]


def _to_bytes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round half up and clip in place; the conversion to uint8 on assignment then drops the fraction."""
    values += 0.5
    return np.clip(values, 0, 255, out=values)


def _blocks(inputs: int, outputs: int, resample: str) -> tuple[_Block, ...]:
    """Cut the band matrix of one pass into blocks."""
    first, last, weights = _weights(inputs, outputs, resample)
    blocks = []
    for start in range(0, outputs, _BLOCK):
        stop = min(start + _BLOCK, outputs)
        low, high = int(first[start]), int(last[stop - 1])
        dense = np.zeros((high - low, stop - start))
        for place in range(start, stop):
            count = int(last[place] - first[place])
            dense[first[place] - low : last[place] - low, place - start] = weights[place, :count]
        blocks.append(_Block(slice(low, high), slice(start, stop), dense))
    return tuple(blocks)


def _weights(
    inputs: int, outputs: int, resample: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return each output's first input, the one after its last, and its weights [outputs, most inputs of one]."""
    curve, radius = _CURVES[resample]
    scale = inputs / outputs
    # Antialiasing: the filter grows with the reduction, and never shrinks below one input pixel.
    spread = max(scale, 1.0)
    centre = (np.arange(outputs) + 0.5) * scale
    first = np.maximum((centre - radius * spread + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + radius * spread + 0.5).astype(np.int64), inputs)
    tap = np.arange(int((last - first).max()))
    # Times the reciprocal, as Pillow does: dividing could differ in the last bit.
    weights = curve((tap + (first - centre)[:, None] + 0.5) * (1.0 / spread))
    weights[tap >= (last - first)[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    whole = np.trunc(weights * 2.0**_WEIGHT_BITS + np.copysign(0.5, weights))
    return first, last, whole / 2.0**_WEIGHT_BITS


def _nearest(inputs: int, outputs: int) -> NDArray[np.int64]:
    # Pillow adds the step up rather than multiplying; a running sum repeats its rounding.
    step = inputs / outputs
    steps = np.full(outputs, step)
    steps[0] = step * 0.5
    return np.minimum(np.cumsum(steps).astype(np.int64), inputs - 1)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where((x >= -3.0) & (x < 3.0), _sinc(x) * _sinc(x / 3.0), 0.0)


def _sinc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = np.where(x == 0.0, 1.0, x * math.pi)
    return np.where(x == 0.0, 1.0, np.sin(angle) / angle)


_CURVES: dict[str, tuple[Curve, float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
