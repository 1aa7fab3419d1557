"""gliner's dictionaries as examples, read by the rules of files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spanwright.data.notes import Defect
from spanwright.data.records import RecordReader
from spanwright.data.source import Raw
from spanwright.entities import Example
from spanwright.errors import DataError

_SHOWN = 3


def examples_of(data: Iterable[Any], name: str) -> list[Example]:
    """The examples of what a caller passes as `name`; a place is that and the index, as in ``train_dataset:17``.

    Raises:
        DataError: it is no list, or an example cannot be read.

    """
    if isinstance(data, (str, Path)) or not isinstance(data, Iterable):
        raise DataError(f"`{name}` must be a list of dictionaries, but is {data!r}. Read the file first (`json.load`).")
    reader = RecordReader(Path(name))
    examples: list[Example] = []
    errors: list[Defect] = []
    for index, value in enumerate(data):
        record = reader.read(Raw(index, value))
        errors += [defect for defect in record.defects if defect.severity == "error"]
        if record.example is not None:
            examples.append(record.example)
    if errors:
        shown = " ".join(str(defect) for defect in errors[:_SHOWN])
        more = f" And {len(errors) - _SHOWN:,} more." if len(errors) > _SHOWN else ""
        raise DataError(f"`{name}` must be without errors, but has {len(errors):,}. {shown}{more}")
    return examples
