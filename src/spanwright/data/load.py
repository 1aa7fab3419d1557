"""Whole files as examples: refused where defective, or without what is defective, which is then listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spanwright.data.notes import Defect
from spanwright.data.records import read_records
from spanwright.entities import Example
from spanwright.errors import DataError
from spanwright.text.words import Split

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """Examples, and the defects that left something out: num_spans = spans in `examples` + spans in `skipped`."""

    examples: tuple[Example, ...]
    skipped: tuple[Defect, ...]
    num_spans: int


def load_examples(
    path: str | Path, *, split: Split | None = None, skip_invalid: bool = False, exclusive_ends: bool = False
) -> Loaded:
    """The examples of a file in any readable format. Arguments as those of `read_records`.

    Raises:
        DataError: the file cannot be read, or has errors and `skip_invalid` is not set.

    """
    examples: list[Example] = []
    errors: list[Defect] = []
    losses: list[Defect] = []
    num_spans = 0
    for record in read_records(Path(path), split=split, exclusive_ends=exclusive_ends):
        num_spans += record.num_spans
        for defect in record.defects:
            if defect.severity == "error":
                errors.append(defect)
            if defect.severity == "error" or defect.num_spans:
                losses.append(defect)
        if record.example is not None:
            examples.append(record.example)
    if errors and not skip_invalid:
        shown = " ".join(str(defect) for defect in errors[:_SHOWN])
        more = f" And {len(errors) - _SHOWN:,} more." if len(errors) > _SHOWN else ""
        raise DataError(
            f"{path} must be without errors, but has {len(errors):,}. {shown}{more} "
            f"`spanwright check {path}` lists all; `--skip-invalid` leaves them out."
        )
    return Loaded(tuple(examples), tuple(losses), num_spans)
