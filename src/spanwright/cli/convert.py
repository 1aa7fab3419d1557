"""`spanwright convert`: from any readable format to any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="A file in any format that `check` reads.")],
    target: Annotated[Path, typer.Argument(help="The file to write: .jsonl, .json or .conll; .gz and .xz too.")],
    to: Annotated[str | None, typer.Option(help="gliner, text or conll; by default what the name says.")] = None,
    exclusive_ends: Annotated[
        bool, typer.Option("--exclusive-ends", help="`ner` names the word after the last.")
    ] = False,
    word_splitter: Annotated[
        str, typer.Option(help="How raw text becomes words: whitespace or script.")
    ] = "whitespace",
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave defective spans and rows out, and list them.")
    ] = False,
) -> None:
    """Convert annotated text; what the new format cannot carry is counted."""
    from spanwright.cli.progress import bar
    from spanwright.data.convert import convert as run
    from spanwright.text.words import splitter

    with bar("converting", None) as advance:
        written, skipped = run(
            source,
            target,
            to=to,
            split=splitter(word_splitter),
            exclusive_ends=exclusive_ends,
            skip_invalid=skip_invalid,
            progress=advance,
        )
    for defect in skipped:
        typer.echo(f"left out: {defect}", err=True)
    for kind, count in written.lost.items():
        typer.echo(f"not carried: {count:,} {kind}", err=True)
    typer.echo(f"{target}: {written.num_examples:,} sentences, {written.num_spans:,} spans")
