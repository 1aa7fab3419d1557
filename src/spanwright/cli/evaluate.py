"""`spanwright evaluate`: how right a model is on a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="A GLiNER: a folder, or a hub name.")],
    file: Annotated[Path, typer.Argument(help="Annotated text, in any format that `check` reads.")],
    labels: Annotated[
        str | None, typer.Option(help="Labels to ask, comma-separated; all of the file by default.")
    ] = None,
    relations: Annotated[
        str | None, typer.Option(help="Of a relation model: relations to ask, comma-separated; all by default.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score kept; by default the model's own, else 0.5.")
    ] = None,
    overlap: Annotated[str, typer.Option(help="flat, or nested: entities within entities.")] = "flat",
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Several labels for the same span.")] = False,
    device: Annotated[str | None, typer.Option(help='"cpu", "cuda", "cuda:1".')] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave defective spans and rows out, and list them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Precision, recall and F1 by exact match, per label, with the kinds of error."""
    from spanwright.cli.options import split_labels
    from spanwright.cli.progress import bar
    from spanwright.cli.show import print_json, print_report
    from spanwright.config import DecodeOptions
    from spanwright.data.load import load_examples

    options = DecodeOptions(threshold=threshold, overlap=overlap, multi_label=multi_label)  # type: ignore[arg-type]
    from spanwright.evaluation import evaluate as run
    from spanwright.extractor import Extractor
    from spanwright.text.words import splitter

    extractor = Extractor.from_pretrained(model, device=device, dtype=dtype)
    split = splitter(extractor.model.config.word_splitter)
    loaded = load_examples(file, split=split, skip_invalid=skip_invalid)
    for defect in loaded.skipped:
        typer.echo(f"left out: {defect}", err=True)
    with bar("evaluating", len(loaded.examples)) as advance:
        report = run(
            extractor,
            loaded.examples,
            split_labels(labels),
            options,
            relations=split_labels(relations),
            progress=advance,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report, title=f"{model} on {file}")
