"""From an exception to what the user reads and the exit code; a bug of ours is none of these."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from stc_export.spec.errors import MissingDependencyError, ResourceError, StcError, UsageError

#: Exit code of an interrupted command.
INTERRUPTED = 130

_OWN_PACKAGES = frozenset({"stc_export", "stc_engines", "stc_runtime", "stc_calib"})
_EXTRA_OF_MODULE = {
    "av": "video",
    "tokenizers": "text",
    "onnxruntime": "ort",
    "typer": "cli",
    "rich": "cli",
    "scipy": "validate",
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What libraries say, in errors of many classes, when they get no memory; the last is Python's own, of an import.
_NO_MEMORY = (
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "failed to map segment",
    "can't start new thread",
    "error return without exception set",
)


def explain(error: BaseException) -> StcError | None:
    """Return the error in our terms: itself, an exhausted resource, a missing package, a path that does not work.

    Returns:
        ``None`` for a bug, which is to be seen with its traceback.
    """
    if isinstance(error, StcError):
        return error
    if any(_is_memory_error(one) for one in _causes(error)):
        return ResourceError("There is not enough memory for this.", "Close other programs or use a smaller model.")
    if isinstance(error, ModuleNotFoundError):
        return _missing_module(error)
    if isinstance(error, OSError):
        return _system_error(error)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it: exporters wrap what went wrong inside them."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _is_memory_error(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    named = isinstance(error, (RuntimeError, ImportError, SystemError))
    return named and any(mark in str(error).lower() for mark in _NO_MEMORY)


def _missing_module(error: ModuleNotFoundError) -> StcError | None:
    module = (error.name or "").partition(".")[0]
    if not module or module in _OWN_PACKAGES:
        return None
    extra = _EXTRA_OF_MODULE.get(module, "export")
    return MissingDependencyError(
        f'This command needs the Python package "{module}", which is not installed.',
        f'Run pip install "stc-export[{extra}]".',
    )


def _system_error(error: OSError) -> StcError | None:
    if error.errno in _FULL:
        where = f' while writing "{error.filename}"' if error.filename else ""
        return ResourceError(f"The disk is full{where}.", "Free some space, or choose another place with --out.")
    if error.filename is None:
        return None
    return UsageError(
        f'"{error.filename}" cannot be used: {error.strerror}.', "Check the path and the right to read or write there."
    )
