"""Random streams, and the host's side of a pruner: what a session keeps between two frames."""

from types import SimpleNamespace

import numpy as np


def dims_of(tokens, width):
    """The sizes of a model that methods ask for: M and D."""
    return SimpleNamespace(vision=SimpleNamespace(visual_tokens=tokens), text=SimpleNamespace(width=width))


def frames(count, tokens, width, seed):
    """Frames [M, D] float32 that drift slowly, with some new tokens and other quiet channels in each frame."""
    rng = np.random.default_rng(seed)
    scene = rng.normal(size=(tokens, width)) + rng.normal(size=width)
    scales = np.geomspace(0.5, 2.0, width)
    for _ in range(count):
        scene += 0.1 * rng.normal(size=scene.shape)
        new = rng.choice(tokens, size=1 + tokens // 8, replace=False)
        scene[new] = 2 * rng.normal(size=(len(new), width))
        yield (scene * rng.permutation(scales)).astype(np.float32)


class Window:
    """History kind ``window``: a ring of W entries; filled rows weigh 1 / count, the others 0."""

    def __init__(self, width, rows):
        self.history = np.zeros((rows, width), dtype=np.float32)
        self.pushed = 0

    @property
    def weights(self):
        count = min(self.pushed, len(self.history))
        weights = np.zeros(len(self.history), dtype=np.float32)
        weights[:count] = 1 / max(count, 1)
        return weights

    def push(self, entry):
        self.history[self.pushed % len(self.history)] = entry
        self.pushed += 1


class Mean:
    """History kind ``mean``: the mean of all n entries with weight n / (n + 1), here spread over any number of rows."""

    def __init__(self, width, rows):
        self.history = np.zeros((rows, width), dtype=np.float32)
        self.pushed = 0

    @property
    def weights(self):
        rows = len(self.history)
        return np.full(rows, self.pushed / (self.pushed + 1) / rows, dtype=np.float32)

    def push(self, entry):
        self.pushed += 1
        self.history += (entry - self.history) / self.pushed


class Last(Window):
    """History kind ``last``: a window of one, however many rows are asked for."""

    def __init__(self, width, rows):
        del rows
        super().__init__(width, 1)


class Nothing(Window):
    """History kind ``none``."""

    def push(self, entry):
        raise AssertionError("nothing is remembered")


HOSTS = {"window": Window, "mean": Mean, "last": Last, "none": Nothing}


def feed(method, host, alpha, keep, noise=None):
    """The graph inputs of a method as numpy arrays by name."""
    known = {"carrier": np.zeros(keep, dtype=np.int64), "alpha": np.array([alpha], dtype=np.float32), "noise": noise}
    known |= {"history": host.history, "history_weights": host.weights}
    return {name: known[name] for name in method.inputs}


def boundary_gap(scores, keep):
    """Distance between the worst kept and the best dropped score; infinite when nothing is dropped."""
    ordered = np.sort(scores)
    return np.inf if keep == len(scores) else ordered[keep] - ordered[keep - 1]
