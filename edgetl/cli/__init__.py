"""The command line: one file per command; each has its arguments, one call and one way to print."""

import io
import sys
from typing import Annotated

import typer

from edgetl.cli import (
    bench,
    cache,
    compress,
    data,
    demo,
    doctor,
    drift,
    evaluate,
    export,
    predict,
    report,
    train,
    verify,
)
from edgetl.cli.command import register

COMMANDS = {
    "data": data.data,
    "train": train.train,
    "compress": compress.compress,
    "eval": evaluate.evaluate,
    "export": export.export,
    "verify": verify.verify,
    "predict": predict.predict,
    "drift": drift.drift,
    "bench": bench.bench,
    "report": report.report,
    "cache": cache.cache,
    "doctor": doctor.doctor,
    "demo": demo.demo,
}


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"edgetl {version('edgetl')}")
        raise typer.Exit


app = typer.Typer(
    name="edgetl",
    help="A folder of labelled images in; small, fast, proven edge models out. Everything works offline.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,  # boxes and colours only where a person looks
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 you can fix it, 2 wrong usage, 3 the check failed, "
    "4 done but some inputs were skipped, 5 not decidable with the images given.",
)
for _name, _command in COMMANDS.items():
    register(app, _name, _command)


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """What is said before any command."""


def main() -> None:
    """What the `edgetl` program runs."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no locale makes a class name an error
    app()
