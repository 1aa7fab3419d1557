"""Files that are too large to be held: an index of where each record begins, and records read when they are asked for.

Results are those of a file that was read whole, bit for bit: same rows, same order, same digest.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from spanwright.data.coverage import Account, Coverage, rows_of
from spanwright.data.labels import label_inventory, relation_inventory
from spanwright.data.load import Tally
from spanwright.data.notes import Defect
from spanwright.data.records import RecordReader
from spanwright.data.source import MAX_LINE, json_line, open_bytes
from spanwright.entities import Example
from spanwright.errors import DataError
from spanwright.text.windows import Window
from spanwright.text.words import Split

_LISTED = 10_000  # defects kept; all are counted
Windows = Callable[[Example], Sequence[Window]]


class IndexedExamples(Sequence[Example]):
    """The examples of a JSON-lines file, in 12 bytes each.

    inventory, relations: all labels and relations that they speak of; losses: as `Loaded.skipped`, the first of them.

    Raises:
        DataError: as `load_examples`; or, later, the file has changed since it was indexed.

    """

    def __init__(self, path: Path, *, split: Split, skip_invalid: bool = False) -> None:
        self._path = path
        self._reader = RecordReader(path, split=split)
        self._offsets = array("Q")
        self._lines = array("I")
        self._file: int | None = None
        labels: set[str] = set()
        relations: set[str] = set()
        tally = Tally(path, skip_invalid=skip_invalid, limit=_LISTED)
        for number, offset, raw in _lines(path):
            value = json_line(number, raw)
            if value is None:
                continue
            record = self._reader.read(value)
            tally.look(record)
            if record.example is not None:
                self._offsets.append(offset)
                self._lines.append(number)
                labels.update(label_inventory([record.example]))
                relations.update(relation_inventory([record.example]))
        tally.require_readable()
        self.inventory = sorted(labels)
        self.relations = sorted(relations)
        self.losses: tuple[Defect, ...] = tuple(tally.losses)

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        number = self._lines[index]
        value = json_line(number, self._line_at(self._offsets[index]))
        example = None if value is None else self._reader.read(value).example
        if example is None:
            raise DataError(f"{self._path}:{number}: the line must be what it was at the start of the run, but is not.")
        return example

    def __iter__(self) -> Iterator[Example]:
        """In order, reading ahead."""
        wanted = iter(self._lines)
        next_line = next(wanted, None)
        for number, _, raw in _lines(self._path):
            if number == next_line:
                value = json_line(number, raw)
                example = None if value is None else self._reader.read(value).example
                if example is not None:
                    yield example
                next_line = next(wanted, None)

    def _line_at(self, offset: int) -> bytes:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY)
        size = 4096
        while True:  # by place, not by a shared cursor: loader processes may have inherited the file
            raw = os.pread(self._file, size, offset)
            end = raw.find(b"\n")
            if end >= 0 or len(raw) < size or size >= MAX_LINE:
                return raw[: end + 1] if end >= 0 else raw
            size *= 8

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class IndexedRows(Sequence[Example]):
    """The training rows of indexed examples. 8 bytes each: which example, and what it costs in subtokens.

    digest: of all rows, as `digest_of` gives it; coverage: what becomes of the gold spans.
    """

    def __init__(
        self,
        examples: IndexedExamples,
        windows: Windows,
        cost_of: Callable[[Example], int],
        *,
        max_width: int | None,
    ) -> None:
        self._examples = examples
        self._windows = windows
        self._max_width = max_width
        self._places = array("I")
        self._parts: dict[int, int] = {}  # of rows that are not the first window of their example
        self.costs = array("I")
        account, digest = Account(), hashlib.blake2b(digest_size=8)
        for place, example in enumerate(examples):
            for part, row in enumerate(account.rows_of(example, windows(example), max_width=max_width)):
                if part:
                    self._parts[len(self._places)] = part
                self._places.append(place)
                self.costs.append(cost_of(row))
                digest.update(row_content(row))
        self.coverage: Coverage = account.coverage()
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        example = self._examples[self._places[index]]
        return rows_of(example, self._windows(example), max_width=self._max_width)[self._parts.get(index, 0)]


def row_content(row: Example) -> bytes:
    """What a training row is, for a digest."""
    spans = [(span.start, span.end, span.label) for span in row.spans]
    content: tuple[object, ...] = (row.word_texts, spans, row.labels, row.negatives)
    if row.gold_relations is not None:
        content += (row.gold_relations,)
    return repr(content).encode("utf-8", "surrogatepass")


def digest_of(rows: Sequence[Example]) -> str:
    """64 bits of all rows."""
    if isinstance(rows, IndexedRows):
        return rows.digest
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(row_content(row))
    return digest.hexdigest()


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, bytes) of each line; of one that is too long, its beginning."""
    number = offset = 0
    with open_bytes(path) as file:
        while raw := file.readline(MAX_LINE):
            number += 1
            yield number, offset, raw
            offset += len(raw)
            while len(raw) == MAX_LINE and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE)
                offset += len(raw)
