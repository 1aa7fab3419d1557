"""`spanwright train`: fine-tune on files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    model: Annotated[str, typer.Option("--model", help="GLiNER or pretrained encoder: a folder, or a hub name.")],
    train: Annotated[Path, typer.Option("--train", help="Training data, in any format that `check` reads.")],
    output: Annotated[Path, typer.Option("--output", help="Folder for the package, the curve and the run's state.")],
    dev: Annotated[Path | None, typer.Option("--dev", help="Held-out data: choose the best package by F1.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file of options, by section.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="One option, as in optimizer.lr=1e-4; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option(help='Where to train: "cpu", "cuda", "cuda:1".')] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest state in --output, if there is one.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="With --resume: options, data or processes may be others.")
    ] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave defective spans and rows out, and list them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fine-tune a GLiNER on annotated text, or make one from a pretrained encoder."""
    from spanwright.cli.options import read_config

    chosen = read_config(config, assignments or [])
    from spanwright.cli.show import print_json, print_report
    from spanwright.training import train as run

    result = run(
        model,
        train,
        dev,
        output=output,
        config=chosen,
        device=device,
        resume=resume,
        accept_changes=accept_changes,
        skip_invalid=skip_invalid,
        show=True,
        tell=lambda line: typer.echo(line, err=True),
    )
    if as_json:
        report = None if result.report is None else result.report.to_dict()
        print_json({"output": str(output), "steps": result.num_steps, "best_step": result.best_step, "dev": report})
        return
    if result.report is not None:
        print_report(result.report, title=f"dev set, best step {result.best_step}")
    typer.echo(f"package, metrics.jsonl and learning-curve.png: {output}")
