"""`spanwright inspect`: what a model is."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    model: Annotated[str, typer.Argument(help="A GLiNER: a folder, or a hub name.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    variant: Annotated[str | None, typer.Option(help="fp16 or bf16: look at these weights.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Architecture, encoder, parameters by part, limits, markers, files with their hashes, licence. Runs nothing."""
    from spanwright.checkpoint import fetch_package, inspect_package
    from spanwright.cli.show import print_inspection, print_json

    package, folder = fetch_package(model, revision=revision, variant=variant)
    found = inspect_package(package, folder, variant=variant)
    if as_json:
        print_json(found.to_dict())
    else:
        print_inspection(found)
