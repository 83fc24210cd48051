"""How a module of ours is run in a process of its own. Standard library only."""

from __future__ import annotations

import sys

#: ``python -m`` would look for modules in the current directory first, which may be a bundle or checkpoint of others.
_RUN = (
    "import sys; sys.path = [place for place in sys.path if place]; import runpy; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module as a program, and never a file of the current directory in its place."""
    return sys.executable, "-c", _RUN.format(module=module)
