"""The command `spanwright`: one file per verb. Nothing heavy is imported until a verb runs."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

import typer

from spanwright.cli.benchmark import benchmark
from spanwright.cli.check import check
from spanwright.cli.convert import convert
from spanwright.cli.evaluate import evaluate
from spanwright.cli.extract import extract
from spanwright.cli.inspect import inspect
from spanwright.cli.train import train
from spanwright.errors import SpanwrightError

app = typer.Typer(
    name="spanwright",
    help="Fine-tune, evaluate and run GLiNER models: entities for any labels, never in the wrong mode.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (train, evaluate, extract, check, convert, inspect):
    app.command()(verb)
app.add_typer(benchmark, name="benchmark")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from spanwright import __version__

        typer.echo(f"spanwright {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors that Spanwright raises become one sentence and an exit code.

    Signals end it with 143 (SIGTERM) and 130 (SIGINT); `train` finishes its step and saves before.
    """
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except SpanwrightError as error:
        typer.echo(f"spanwright: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `spanwright ... | head`
        sys.stderr.close()
        sys.exit(141)
