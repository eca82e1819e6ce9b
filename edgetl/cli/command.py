"""What all commands share: options from settings records, `--json`, progress, and the one error boundary."""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from edgetl.errors import EdgetlError, ExitCode
from edgetl.progress import REPORTER

ModelFolder = Annotated[Path, typer.Argument(help="A model folder, as made by edgetl train.", show_default=False)]


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
            with _boundary(as_json):
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
    app.command(name)(body)


def _flags(config_type: type) -> list[inspect.Parameter]:
    """One option per field; type, default, range and help are the field's."""
    hints = get_type_hints(config_type)
    short = {"output": ("-o",), "artifact": ("-a",), "format": ("-f",), "precision": ("-p",)}
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                hints[field.name],
                typer.Option(
                    f"--{field.name.replace('_', '-')}",
                    *short.get(field.name, ()),
                    help=field.metadata["help"],
                    min=field.metadata["min"],
                    max=field.metadata["max"],
                    show_default=field.default is not None and field.default is not False,
                ),
            ],
        )
        for field in fields(config_type)
    ]


def _json_flag() -> inspect.Parameter:
    return inspect.Parameter(
        "json",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--json", help="Print the result as JSON.", show_default=False)],
    )


class _boundary:  # noqa: N801 - reads as the statement it is
    """Errors become one sentence, one hint and an exit code here, and nowhere else."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> None:
        from edgetl.cli.reporter import reporter_for

        self._token = REPORTER.set(reporter_for(sys.stderr))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        REPORTER.reset(self._token)
        if isinstance(error, KeyboardInterrupt):
            typer.echo("\nInterrupted. Nothing is half written; train can be continued with --resume.", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()  # the reader went away, as `head` does; say nothing
            raise typer.Exit(ExitCode.DONE) from error
        if isinstance(error, EdgetlError):
            _show_error(error, self._as_json)
            raise typer.Exit(error.exit_code) from error


def _show_error(error: EdgetlError, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps({"error": error.what, "fix": error.fix, "exit_code": int(error.exit_code)}))
        return
    typer.secho(f"error: {error.what}", fg=typer.colors.RED, err=True)
    if error.fix:
        typer.secho(f"  fix: {error.fix}", err=True)


def _finish(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        from edgetl.records import to_json

        typer.echo(to_json(outcome.record), nl=False)
    else:
        outcome.show(outcome.record)
    if outcome.exit_code is not ExitCode.DONE:
        raise typer.Exit(outcome.exit_code)
