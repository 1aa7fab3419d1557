"""Whole files as examples: refused where defective, or without what is defective, which is then listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spanwright.data.notes import Defect, Record
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
    tally = Tally(Path(path), skip_invalid=skip_invalid)
    for record in read_records(Path(path), split=split, exclusive_ends=exclusive_ends):
        tally.look(record)
        if record.example is not None:
            examples.append(record.example)
    tally.require_readable()
    return Loaded(tuple(examples), tuple(tally.losses), tally.num_spans)


class Tally:
    """Counts what is wrong with a file while it is read, record by record."""

    def __init__(self, path: Path, *, skip_invalid: bool, limit: int | None = None) -> None:
        """`limit`: how many defects are kept; all are counted."""
        self._path = path
        self._skip_invalid = skip_invalid
        self._limit = limit
        self._shown: list[Defect] = []
        self._num_errors = 0
        self.losses: list[Defect] = []
        self.num_spans = 0

    def look(self, record: Record) -> None:
        """Count one record."""
        self.num_spans += record.num_spans
        for defect in record.defects:
            if defect.severity == "error":
                self._num_errors += 1
                self._shown += [defect] if len(self._shown) < _SHOWN else []
            if (defect.severity == "error" or defect.num_spans) and len(self.losses) != self._limit:
                self.losses.append(defect)

    def require_readable(self) -> None:
        """Raise DataError if there were errors that may not be passed over."""
        if self._num_errors and not self._skip_invalid:
            shown = " ".join(str(defect) for defect in self._shown)
            more = f" And {self._num_errors - _SHOWN:,} more." if self._num_errors > _SHOWN else ""
            raise DataError(
                f"{self._path} must be without errors, but has {self._num_errors:,}. {shown}{more} "
                f"`spanwright check {self._path}` lists all; `--skip-invalid` leaves them out."
            )
