"""`spanwright check`: what is wrong with data files, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spanwright.data.check import CheckReport

_SHOWN = 50


def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Files in any format; .gz and .xz too.")] = None,
    train: Annotated[list[Path] | None, typer.Option("--train", help="A training file, to compare --dev with.")] = None,
    dev: Annotated[list[Path] | None, typer.Option("--dev", help="A held-out file.")] = None,
    max_width: Annotated[int, typer.Option(help="Widest span that the model can find, in words.")] = 12,
    max_words: Annotated[int, typer.Option(help="Longest sentence that the model reads at once, in words.")] = 384,
    exclusive_ends: Annotated[
        bool, typer.Option("--exclusive-ends", help="`ner` names the word after the last.")
    ] = False,
    word_splitter: Annotated[
        str, typer.Option(help="How raw text becomes words: whitespace or script.")
    ] = "whitespace",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Every defect with its file and line, and a summary. Exits with 1 where there are errors."""
    from spanwright.cli.progress import bar
    from spanwright.cli.show import print_json
    from spanwright.data.check import check as run
    from spanwright.errors import ConfigError
    from spanwright.text.words import splitter

    if not files and not train and not dev:
        raise ConfigError("`check` must be given a file, but was given none.")
    with bar("checking", None) as advance:
        report = run(
            files or [],
            train=train or [],
            dev=dev or [],
            max_width=max_width,
            max_words=max_words,
            split=splitter(word_splitter),
            exclusive_ends=exclusive_ends,
            progress=advance,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    raise typer.Exit(1 if report.num_errors else 0)


def _print(report: CheckReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for summary in report.files:
        table = Table(title=summary.name, title_justify="left", show_header=False)
        labels = ", ".join(f"{label} {count:,}" for label, count in summary.labels.most_common(12))
        more = f" and {len(summary.labels) - 12:,} more" if len(summary.labels) > 12 else ""
        widths = ", ".join(f"{width}: {summary.widths[width]:,}" for width in sorted(summary.widths)[:12])
        for name, value in (
            ("sentences", f"{summary.num_examples:,}"),
            ("words", f"{summary.num_words:,} (longest sentence {summary.longest:,})"),
            ("spans", f"{summary.num_spans:,} ({summary.num_nested:,} nested)"),
            (f"labels ({len(summary.labels):,})", labels + more),
            ("spans by width", widths),
        ):
            table.add_row(name, value)
        console.print(table)
    for defect in sorted(report.defects, key=lambda defect: defect.severity)[:_SHOWN]:
        style = "red" if defect.severity == "error" else "yellow"
        console.print(f"[{style}]{defect.severity}[/]", end=" ")
        console.print(str(defect), highlight=False, markup=False, soft_wrap=True)
    hidden = report.num_errors + report.num_warnings - _SHOWN
    if hidden > 0:
        console.print(f"... and {hidden:,} more; `--json` lists them.", highlight=False)
    console.print(f"{report.num_errors:,} errors, {report.num_warnings:,} warnings", highlight=False)
