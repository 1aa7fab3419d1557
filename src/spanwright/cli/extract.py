"""`spanwright extract`: entities in text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spanwright.config import DecodeOptions
    from spanwright.entities import Extraction
    from spanwright.extractor import Extractor

_SLICE = 512  # texts read, answered and printed before the next ones are read


def extract(
    model: Annotated[str, typer.Argument(help="A GLiNER: a folder, or a hub name.")],
    text: Annotated[str | None, typer.Argument(help="A text; without one, --input or standard input.")] = None,
    labels: Annotated[str, typer.Option(help="What to find, comma-separated.")] = "",
    source: Annotated[
        Path | None, typer.Option("--input", help="File of texts: one a line, or JSON lines with a `text`.")
    ] = None,
    relations: Annotated[str, typer.Option(help="Of a relation model: relations to find, comma-separated.")] = "",
    threshold: Annotated[
        float | None, typer.Option(help="Least score kept; by default the model's own, else 0.5.")
    ] = None,
    overlap: Annotated[str, typer.Option(help="flat, or nested: entities within entities.")] = "flat",
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Several labels for the same span.")] = False,
    device: Annotated[str | None, typer.Option(help='"cpu", "cuda", "cuda:1".')] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a text: its text and entities.")] = False,
) -> None:
    """Entities for any labels, in one text or in a file of them."""
    from spanwright.cli.options import split_labels
    from spanwright.config import DecodeOptions
    from spanwright.errors import ConfigError

    asked = split_labels(labels) or []
    if not asked:
        raise ConfigError("`--labels` must name what to find, as in `--labels person,city`, but is empty.")
    if text is not None and source is not None:
        raise ConfigError("A text and `--input` must not both be given. Leave one out.")
    options = DecodeOptions(threshold=threshold, overlap=overlap, multi_label=multi_label)  # type: ignore[arg-type]
    texts = iter([text]) if text is not None else _texts(source)
    from spanwright.cli.progress import bar
    from spanwright.extractor import Extractor

    extractor = Extractor.from_pretrained(model, device=device, dtype=dtype)
    related = split_labels(relations) or []
    with bar("extracting", None if text is None else 1) as advance:
        while part := list(islice(texts, _SLICE)):
            for read, found in zip(part, _found(extractor, part, asked, related, options), strict=True):
                if as_json:
                    _print_json(read, found, with_relations=bool(related))
                else:
                    _print(read, found, alone=text is not None)
            advance(len(part))


def _found(
    extractor: Extractor, texts: list[str], labels: list[str], relations: list[str], options: DecodeOptions
) -> list[Extraction]:
    from spanwright.entities import Extraction

    if relations:
        return extractor.extract_relations_many(texts, labels, relations, options)
    return [Extraction(entities, []) for entities in extractor.extract_many(texts, labels, options)]


def _texts(path: Path | None) -> Iterator[str]:
    """The texts of a file or of standard input, line by line."""
    import json

    from spanwright.errors import DataError

    place = "standard input" if path is None else str(path)
    for number, line in enumerate(_lines(path), start=1):
        line = line.rstrip("\r\n")
        if path is None or path.suffix != ".jsonl":
            yield line
            continue
        try:
            record: Any = json.loads(line)
        except ValueError:
            raise DataError(f"{place}:{number}: the line must be JSON, but is {line[:60]!r}.") from None
        found = record.get("text") if isinstance(record, dict) else record
        if not isinstance(found, str):
            raise DataError(f"{place}:{number}: `text` must be a string, but is {found!r}.")
        yield found


def _lines(path: Path | None) -> Iterable[str]:
    from spanwright.errors import DataError

    if path is None:
        yield from sys.stdin
        return
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            yield from file
    except OSError as error:
        raise DataError(f"{path} must be a file of texts, but cannot be read: {error.strerror}.") from None


def _print_json(text: str, found: Extraction, *, with_relations: bool) -> None:
    import json

    record: dict[str, Any] = {"text": text, "entities": [entity.to_dict() for entity in found.entities]}
    if with_relations:
        record["relations"] = [relation.to_dict() for relation in found.relations]
    print(json.dumps(record, ensure_ascii=False))


def _print(text: str, found: Extraction, *, alone: bool) -> None:
    if not alone:
        print(text)
    for entity in found.entities:
        print(f"{entity.score:6.3f}  {entity.label:24} {entity.text}")
    for relation in found.relations:
        print(f"{relation.score:6.3f}  {relation.label:24} {relation.head.text} -> {relation.tail.text}")
    if not found.entities:
        print("no entities" if alone else "        -")
