"""A TensorRT that is none, with a timing cache: a graph is a list of layers, and a build times those it does not know.

A plan says which layers were timed for it. The cache keeps the rules of the real one: times of another version or
device are refused, and of two times of a layer the first stays.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ITimingCache:
    def __init__(self, made_by: str, times: dict[str, str]) -> None:
        self.made_by, self.times = made_by, times

    def combine(self, other: ITimingCache, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and other.made_by != self.made_by:
            return False
        self.times = {**other.times, **self.times}
        return True

    def serialize(self) -> bytes:
        return json.dumps([self.made_by, self.times]).encode()


class IBuilderConfig:
    def __init__(self, made_by: str) -> None:
        self.made_by = made_by
        self.cache: ITimingCache | None = None
        self.builder_optimization_level = 3
        self.flags = {FakeCompiler.BuilderFlag.TF32}
        self.progress_monitor: Any = None

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def create_timing_cache(self, data: bytes) -> ITimingCache | None:
        if data == b"null" or not self.made_by:
            return None
        if not data:
            return ITimingCache(self.made_by, {})
        try:
            return ITimingCache(*json.loads(data))
        except ValueError as error:
            raise AssertionError("damaged bytes reached the compiler, which may crash it") from error

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and cache.made_by != self.made_by:
            return False
        self.cache = cache
        return True


class Network:
    def __init__(self) -> None:
        self.layers: list[str] = []


class FakeCompiler:
    """Stands for the module ``tensorrt``.

    Args:
        made_by: Version and device, which a cache is bound to; without any there are no caches.
        during: Called in the middle of a build.
    """

    class ILogger:
        class Severity(enum.Enum):
            INTERNAL_ERROR = 0
            ERROR = 1

    class IProgressMonitor:
        pass

    class NetworkDefinitionCreationFlag:
        pass

    class BuilderFlag(enum.Enum):
        TF32 = 7

    class MemoryPoolType(enum.Enum):
        WORKSPACE = 0
        TACTIC_DRAM = 1

    def __init__(
        self, made_by: str = "10.3.0 on Orin", during: Callable[[], object] = lambda: None, version: str = "10.3.0"
    ) -> None:
        self.made_by, self.during, self.__version__ = made_by, during, version

    def Builder(self, _log: Any) -> Builder:  # noqa: N802 - its name
        return Builder(self.made_by, self.during)

    def OnnxParser(self, network: Network, _log: Any) -> Parser:  # noqa: N802 - its name
        return Parser(network)


class Builder:
    def __init__(self, made_by: str, during: Callable[[], object]) -> None:
        self._made_by, self._during = made_by, during

    def create_network(self, _flags: int) -> Network:
        return Network()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._made_by)

    def build_serialized_network(self, network: Network, config: IBuilderConfig) -> bytes | None:
        times = config.cache.times if config.cache else {}
        timed = [layer for layer in network.layers if layer not in times]
        self._during()
        if "refused" in network.layers:
            return None
        times.update(dict.fromkeys(timed, "1 ms"))
        return json.dumps(timed).encode()


class Parser:
    def __init__(self, network: Network) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.layers = Path(path).read_text().split()
        return True
