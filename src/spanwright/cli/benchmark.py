"""`spanwright benchmark`: figures that models are compared by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

benchmark = typer.Typer(help="Figures that models are compared by.", no_args_is_help=True)


@benchmark.callback()
def _group() -> None:
    """Keep `zero-shot` a verb of its own: typer would fold a single one into its group."""


@benchmark.command("zero-shot")
def zero_shot(
    model: Annotated[str, typer.Argument(help='A GLiNER: a folder, a hub name, or "default".')],
    data: Annotated[Path, typer.Option("--data", help="Folder of data sets: NAME/test.jsonl in each.")],
    split: Annotated[str, typer.Option(help="Which file of each data set.")] = "test",
    threshold: Annotated[float, typer.Option(help="Least score kept.")] = 0.5,
    draws: Annotated[int, typer.Option(help="Samples of the bootstrap.", min=1)] = 1000,
    device: Annotated[str | None, typer.Option(help='"cpu", "cuda", "cuda:1".')] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, labels included, as JSON.")] = False,
) -> None:
    """Micro F1 on each data set, asked all its labels at once, as in the GLiNER paper's zero-shot table."""
    from spanwright.cli.progress import bar
    from spanwright.cli.show import print_json, print_zero_shot
    from spanwright.evaluation.zero_shot import read_sets
    from spanwright.evaluation.zero_shot import zero_shot as run
    from spanwright.extractor import Extractor

    sets = read_sets(data, split=split)
    extractor = Extractor.from_pretrained(model, device=device, dtype=dtype)
    with bar("evaluating", sum(len(each.examples) for each in sets)) as advance:
        result = run(extractor, sets, threshold=threshold, draws=draws, progress=advance)
    if as_json:
        print_json({"model": model, "data": str(data), "split": split, **result.to_dict()})
    else:
        print_zero_shot(result, title=f"{model} on {data}, {split}, threshold {threshold}")
