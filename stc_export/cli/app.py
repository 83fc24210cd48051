"""The commands put together. Needs typer; the packages that do the work are imported when a command runs."""

from collections.abc import Callable, Sequence
from inspect import getdoc
from typing import Annotated, Any

import typer

from stc_export import __version__
from stc_export.cli import bench, build, check, doctor, inspect, run, seal, targets, validate
from stc_export.cli.calibrate import command as calibrate
from stc_export.cli.errors import INTERRUPTED
from stc_export.cli.output import tell, write
from stc_export.cli.text import one_line
from stc_export.spec.errors import UsageError

PROGRAM = "stc-export"

#: What typer raises for wrong flags; its class is public only through this descendant.
_PARSER_ERROR: type[Exception] = typer.BadParameter.__bases__[0]

#: Name, function and example of each command.
Commands = tuple[tuple[str, Callable[..., None], str], ...]

_COMMANDS: Commands = (
    ("build", build.build, build.EXAMPLE),
    ("run", run.run, run.EXAMPLE),
    ("bench", bench.bench, bench.EXAMPLE),
    ("validate", validate.validate, validate.EXAMPLE),
    ("calibrate", calibrate.calibrate, calibrate.EXAMPLE),
    ("inspect", inspect.inspect, inspect.EXAMPLE),
    ("check", check.check, check.EXAMPLE),
    ("seal", seal.seal, seal.EXAMPLE),
    ("targets", targets.targets, targets.EXAMPLE),
    ("doctor", doctor.doctor, doctor.EXAMPLE),
)


def make_app() -> typer.Typer:
    """Return the program with all its commands, in plain text without markup."""
    return put_together(PROGRAM, _program, _COMMANDS)


def put_together(name: str, program: Callable[..., None], commands: Commands) -> typer.Typer:
    """Return a program in plain text without markup.

    Args:
        name: What is typed to run it.
        program: What it does without a command; its docstring says what it is for.
        commands: Name, function and example of each command.
    """
    names = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        name=name,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=names,
        epilog=_verbatim("Examples:", [example for _, _, example in commands]),
    )
    app.callback(invoke_without_command=True)(program)
    for title, command, example in commands:
        text = f"{getdoc(command)}\n\n{_verbatim('Example:', [example])}"
        app.command(title, help=text, context_settings=names)(command)
    return app


def call(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        app: A program, whose name messages show.
        arguments: Command and flags.

    Raises:
        UsageError: Flags or arguments that typer refuses.
        KeyboardInterrupt: The command was interrupted.
        StcError: The command's own error.
    """
    command = typer.main.get_command(app)
    try:
        code: Any = command.main(args=list(arguments), prog_name=app.info.name, standalone_mode=False)
    except _PARSER_ERROR as error:
        raise _usage_error(error, app.info.name) from error
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    if code == INTERRUPTED:  # typer turns the exception into this code
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _usage_error(error: Any, program: str | None) -> UsageError:
    path = error.ctx.command_path if error.ctx is not None else program
    return UsageError(one_line(error.format_message()), f"See {path} --help.")


def _program(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Split a streaming video LLM into ONNX graphs, and run them on edge devices."""
    if version:
        write(f"{PROGRAM} {__version__}\n")
        raise typer.Exit
    refuse_no_command(context)


def refuse_no_command(context: typer.Context) -> None:
    """Show what commands there are if none was given."""
    if context.invoked_subcommand is None:
        tell(context.get_help())
        raise typer.Exit(2)


def _verbatim(title: str, lines: list[str]) -> str:
    # A line with a backspace keeps the paragraph from being wrapped.
    return "\b\n" + "\n".join([title, *(f"  {line}" for line in lines)])
