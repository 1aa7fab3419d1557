"""Examples to files, in every format that can be read."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

from spanwright.data.source import Format
from spanwright.entities import Example, Span
from spanwright.errors import ConfigError, DataError, require_choice


@dataclass(frozen=True, slots=True)
class Written:
    """How much was written, and what the format could not carry, counted by kind."""

    num_examples: int
    num_spans: int
    lost: dict[str, int]


def format_of(path: Path) -> Format:
    """The format that a file's name asks for.

    Raises:
        ConfigError: its suffix says none.

    """
    name = path.name.removesuffix(".gz").removesuffix(".xz")
    if name.endswith((".jsonl", ".json")):
        return "gliner"
    if name.endswith((".conll", ".bio", ".iob", ".iob2", ".tsv")):
        return "conll"
    raise ConfigError(
        f"{path} must end in .jsonl, .json or .conll (and .gz or .xz), but does not. Or say `--to FORMAT`."
    )


def write_examples(examples: Iterable[Example], path: str | Path, form: Format | None = None) -> Written:
    """Write examples whole or not at all: ``gliner`` (JSON lines, or an array for .json), ``text`` or ``conll``.

    Raises:
        ConfigError: the format is none, or the name does not say which.
        DataError: the file cannot be written; what stood there is untouched.

    """
    target = Path(path)
    chosen = form or format_of(target)
    require_choice("to", chosen, Format)
    lost: Counter[str] = Counter()
    num_examples = num_spans = 0
    array = chosen != "conll" and ".json" in target.suffixes
    with _replacing(target) as file:
        file.write("[\n" if array else "")
        for example in examples:
            lines, spans = _conll(example, lost) if chosen == "conll" else (_json(example, chosen, lost), example.spans)
            file.write((",\n" if num_examples else "") + lines if array else lines + "\n")
            num_examples += 1
            num_spans += len(spans)
        file.write("\n]\n" if array else "")
    return Written(num_examples, num_spans, dict(lost))


def _json(example: Example, form: Format, lost: Counter[str]) -> str:
    record: dict[str, Any]
    if form == "gliner":
        spans = [[span.start, span.end - 1, span.label] for span in example.spans]
        record = {"tokenized_text": example.word_texts, "ner": spans}
        lost["spacing of texts"] += example.text != " ".join(example.word_texts)
    else:
        words = example.words
        record = {
            "text": example.text,
            "entities": [
                {"start": words[span.start].start, "end": words[span.end - 1].end, "label": span.label}
                for span in example.spans
            ],
        }
    if example.labels is not None:
        record["ner_labels"] = list(example.labels)
    if example.negatives:
        record["ner_negatives"] = list(example.negatives)
    if example.source:
        record["src"] = example.source
    record |= _relations(example)
    _drop_zero(lost)
    return json.dumps(record, ensure_ascii=_has_surrogate(example.text))


def _relations(example: Example) -> dict[str, Any]:
    """GLiNER's keys of relations: places of head and tail among the spans, and the label."""
    gold = example.gold_relations
    if gold is None:
        return {}
    place = {span: index for index, span in enumerate(example.spans)}
    keys: dict[str, Any] = {"relations": [[place[r.head], place[r.tail], r.label] for r in gold.relations]}
    if gold.labels is not None:
        keys["rel_labels"] = list(gold.labels)
    if gold.negatives:
        keys["rel_negatives"] = list(gold.negatives)
    return keys


def _conll(example: Example, lost: Counter[str]) -> tuple[str, list[Span]]:
    """IOB2 in two columns, with a tab between: labels may have spaces."""
    tags = ["O"] * len(example.words)
    kept = []
    for span in sorted(example.spans, key=lambda span: (span.start, -span.end)):
        if any(tag != "O" for tag in tags[span.start : span.end]):
            lost["spans that overlap others"] += 1
            continue
        kept.append(span)
        tags[span.start : span.end] = [f"B-{span.label}"] + [f"I-{span.label}"] * (span.end - span.start - 1)
    lost["relations"] += len(example.relations)
    lost["names of sources"] += bool(example.source)
    lost["lists of labels"] += (example.labels is not None) + bool(example.negatives)
    lost["spacing of texts"] += example.text != " ".join(example.word_texts)
    lines: list[str] = []
    for word, tag in zip(example.word_texts, tags, strict=True):
        plain = " ".join(word.split("\t")).replace("\n", " ").replace("\r", " ") if set(word) & set("\t\r\n") else word
        lost["line breaks in words"] += plain != word
        if not plain.strip() or plain == "-DOCSTART-" or (plain == "#" and not lines):
            lost["empty words"] += not plain.strip()
            plain = plain if plain.strip() else "_"
        lines.append(f"{plain}\t{tag}")
    _drop_zero(lost)
    return "\n".join(lines) + "\n", kept


def _drop_zero(lost: Counter[str]) -> None:
    for kind in [kind for kind, count in lost.items() if not count]:
        del lost[kind]


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


@contextmanager
def _replacing(target: Path) -> Iterator[IO[str]]:
    """A text file that takes `target`'s place once the block has succeeded."""
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        temporary = Path(name)
        opened: Any = os.fdopen(handle, "wb")
        with opened as raw:  # every layer below is closed with it
            packed: Any = raw
            if target.suffix == ".gz":
                packed = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
            elif target.suffix == ".xz":
                packed = lzma.LZMAFile(raw, "wb")  # noqa: SIM115
            with io.TextIOWrapper(packed, encoding="utf-8", errors="replace", newline="\n") as text:
                yield text
                text.flush()
                if packed is not raw:
                    packed.close()
                raw.flush()
                os.fsync(handle)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise DataError(f"{target} must be writable, but is not: {error.strerror or error}.") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


FORMATS: tuple[Format, ...] = get_args(Format)
