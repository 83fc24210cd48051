"""Files that a command writes beside its result are checked before the work."""

from __future__ import annotations

import os
from pathlib import Path

from stc_export.spec.errors import UsageError


def check_output_file(flag: str, out: Path, suffix: str) -> None:
    """Check where a file is to be written, before anything is computed for it.

    Args:
        flag: Flag that named it, for messages.
        out: The file.
        suffix: What its name has to end in, such as ``.png``.

    Raises:
        UsageError: Another ending, a directory, or a file in a directory that is missing or may not be written.
    """
    if out.suffix.lower() != suffix:
        raise UsageError(
            f'{flag} is "{out}", expected a name that ends in {suffix}.',
            f"Name a file: {flag} {out.stem or 'x'}{suffix}.",
        )
    if out.is_dir():
        raise UsageError(f'{flag} is "{out}", which is a directory.', f"Name a file: {flag} {out / ('x' + suffix)}.")
    if not out.parent.is_dir():
        raise UsageError(f'The directory "{out.parent}" of {flag} is missing.', "Create it first.")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UsageError(f'The directory "{out.parent}" of {flag} may not be written.', "Choose another place.")
