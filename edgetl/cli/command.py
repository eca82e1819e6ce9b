"""What all commands share: options from settings records, `--json`, progress, and the one error boundary."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from edgetl.cli.control_c import ControlC
from edgetl.cli.show import printable, settle_standard_output
from edgetl.errors import EdgetlError, ExitCode
from edgetl.files import storing
from edgetl.machine import seconds_since_start
from edgetl.progress import COMMAND_SECONDS, REPORTER

ModelFolder = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model folder, as made by edgetl train.")
]
SHORT_FLAGS = {"output": ("-o",), "artifact": ("-a",), "format": ("-f",), "precision": ("-p",)}


@dataclass(frozen=True)
class Outcome:
    """What a command hands over to be printed: a record, how a person sees it, and the exit code."""

    record: Any
    show: Callable[[Any], None]
    exit_code: ExitCode = ExitCode.DONE


def command(config_type: type | None = None) -> Callable[[Callable[..., Outcome]], Callable[..., None]]:
    """Replace a command's parameter `config` by one option per field of `config_type`, and add `--json`."""

    def decorate(body: Callable[..., Outcome]) -> Callable[..., None]:
        @functools.wraps(body)
        def run(**given: Any) -> None:
            as_json = given.pop("json")
            control_c = ControlC()
            with _boundary(as_json, control_c), _watched(control_c):
                if config_type is not None:
                    given["config"] = config_type(**{f.name: given.pop(f.name) for f in fields(config_type)})
                _finish(body(**given), as_json)

        own = [p for p in inspect.signature(body, eval_str=True).parameters.values() if p.name != "config"]
        shown = [*own, *(_flags(config_type) if config_type else []), _json_flag()]
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        return run

    return decorate


def register(app: typer.Typer, name: str, body: Callable[..., None]) -> None:
    """Add a command to the program."""
    app.command(name, cls=GroupedHelp)(body)


class GroupedHelp(TyperCommand):
    """Lists options under the same headings in plain help as rich does in a terminal."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section per heading, in the order in which they first appear; the plain ones first."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
                heading = getattr(parameter, "rich_help_panel", None) or plain
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _flags(config_type: type) -> list[inspect.Parameter]:
    """One option per field; type, default, range and help are the field's."""
    hints = get_type_hints(config_type)
    return [_flag(field, hints[field.name]) for field in fields(config_type)]


def _flag(field: Field[Any], kind: Any) -> inspect.Parameter:
    told = typer.Option(
        f"--{field.name.replace('_', '-')}",
        *SHORT_FLAGS.get(field.name, ()),
        help=field.metadata["help"],
        min=field.metadata["min"],
        max=field.metadata["max"],
        rich_help_panel=field.metadata["panel"],
        show_default=field.default is not None and field.default is not False,
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=Annotated[kind, told]
    )


def _json_flag() -> inspect.Parameter:
    told = typer.Option("--json", help="Print the result, or the error, as JSON.", show_default=False)
    return inspect.Parameter(
        "json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, told]
    )


@contextmanager
def _boundary(as_json: bool, control_c: ControlC) -> Iterator[None]:
    """Errors become one sentence, one hint and an exit code here, and nowhere else."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise _interrupted() from error
    except BrokenPipeError as error:  # the reader went away, as `head` does
        settle_standard_output()
        raise typer.Exit(ExitCode.DONE) from error
    except EdgetlError as error:
        _show_error(error, as_json)
        settle_standard_output()
        raise typer.Exit(error.exit_code) from error
    except Exception as error:
        if control_c.pressed or _came_of_ctrl_c(error):
            raise _interrupted() from error
        raise


@contextmanager
def _watched(control_c: ControlC) -> Iterator[None]:
    """Progress goes to standard error, and steps know since when the command has been running."""
    from edgetl.cli.reporter import Interruptible, reporter_for

    with control_c.heard():
        reporter = REPORTER.set(Interruptible(reporter_for(sys.stderr), control_c.arrive))
        seconds = COMMAND_SECONDS.set(seconds_since_start)
        try:
            yield
        finally:
            COMMAND_SECONDS.reset(seconds)
            REPORTER.reset(reporter)


def _interrupted() -> typer.Exit:
    next_step = "Run the command again; train and compress go on with --resume."
    typer.echo(f"\nInterrupted. Nothing is half written. {next_step}", err=True)
    return typer.Exit(ExitCode.INTERRUPTED)


def _came_of_ctrl_c(error: BaseException | None) -> bool:
    """Whether it failed only because Ctrl-C came in its middle, as closing a half-written zip file does."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _show_error(error: EdgetlError, as_json: bool) -> None:
    if as_json:
        import json

        with suppress(OSError):  # where standard output itself is what failed, standard error tells it
            told = {"error": error.what, "fix": error.fix, "exit_code": int(error.exit_code)}
            typer.echo(json.dumps(told))
            return
    typer.secho(f"error: {printable(error.what)}", fg=typer.colors.RED, err=True)
    if error.fix:
        typer.secho(f"  fix: {printable(error.fix)}", err=True)


def _finish(outcome: Outcome, as_json: bool) -> None:
    with storing(Path("standard output")):
        if as_json:
            from edgetl.records import to_json

            typer.echo(to_json(outcome.record), nl=False)
        else:
            outcome.show(outcome.record)
        sys.stdout.flush()
    if outcome.exit_code is not ExitCode.DONE:
        raise typer.Exit(outcome.exit_code)
