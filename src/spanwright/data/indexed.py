"""Files that are too large to be held: an index of where each record begins, and records read when they are asked for.

Results are those of a file that was read whole, bit for bit: same rows, same order, same digest.
"""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from spanwright.data.coverage import CUT, TOO_WIDE, Account, Coverage, rows_of, width_of
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


@dataclass(frozen=True, slots=True)
class Fit:
    """How examples become rows: the windows of one, whether it is one row, its cost in subtokens, the widest span."""

    windows: Callable[[Example], Sequence[Window]]
    is_one_row: Callable[[int, int], bool]  # of cost and words
    cost_of: Callable[[Example], int]
    max_width: int | None


class IndexedExamples(Sequence[Example]):
    """The examples of a JSON-lines file, in 20 bytes each.

    inventories: all labels that those of each source speak of; relations: all relations; losses: as `Loaded.skipped`,
    the first of them; digest: as `digest_of`.

    Raises:
        DataError: as `load_examples`; or, later, the file has changed since it was indexed.

    """

    def __init__(
        self, path: Path, *, split: Split, cost_of: Callable[[Example], int], skip_invalid: bool = False
    ) -> None:
        self._path = path
        self._reader = RecordReader(path, split=split)
        self._offsets = array("Q")
        self._lines, self.costs, self.num_words = array("I"), array("I"), array("I")
        self.widths: Counter[int] = Counter()
        self.relation_widths: Counter[float] = Counter()
        self._file: int | None = None
        self._sources = array("H")
        names: dict[str, int] = {}
        labels: dict[str, set[str]] = {}
        relations: set[str] = set()
        digest = hashlib.blake2b(digest_size=8)
        tally = Tally(path, skip_invalid=skip_invalid, limit=_LISTED)
        for number, offset, raw in _lines(path):
            value = json_line(number, raw)
            if value is None:
                continue
            record = self._reader.read(value)
            tally.look(record)
            if (example := record.example) is None:
                continue
            self._offsets.append(offset)
            self._lines.append(number)
            self.costs.append(cost_of(example))
            self.num_words.append(len(example.words))
            self.widths.update(span.end - span.start for span in example.spans)
            self.relation_widths.update(map(width_of, set(example.relations)))
            self._sources.append(names.setdefault(example.source, len(names)))
            labels.setdefault(example.source, set()).update(label_inventory([example]))
            relations.update(relation_inventory([example]))
            digest.update(_content(example))
        tally.require_readable()
        self.source_names = tuple(names)
        self.inventories = {source: sorted(known) for source, known in sorted(labels.items())}
        self.relations = sorted(relations)
        self.losses: tuple[Defect, ...] = tuple(tally.losses)
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._offsets)

    def source_of(self, index: int) -> str:
        """The source of an example."""
        return self.source_names[self._sources[index]]

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
    """The training rows of indexed examples, in 8 bytes each: which example, and its cost in subtokens.

    Only examples that are more than one row are read for it. coverage: what becomes of the gold spans.
    """

    def __init__(self, examples: IndexedExamples, fit: Fit) -> None:
        self._examples = examples
        self._fit = fit
        self._places, self.costs = array("I"), array("I")
        self._parts: dict[int, int] = {}  # of rows that are not the first window of their example
        account = Account()
        for place, (cost, words) in enumerate(zip(examples.costs, examples.num_words, strict=True)):
            if fit.is_one_row(cost, words):
                self._places.append(place)
                self.costs.append(cost)
                continue
            example = examples[place]
            for part, row in enumerate(account.rows_of(example, fit.windows(example), max_width=fit.max_width)):
                if part:
                    self._parts[len(self._places)] = part
                self._places.append(place)
                self.costs.append(fit.cost_of(row))
        self.coverage = _coverage(examples, len(self), fit.max_width, account)

    @property
    def sources(self) -> Iterator[str]:
        """The source of each row."""
        return map(self._examples.source_of, self._places)

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
        rows = rows_of(example, self._fit.windows(example), max_width=self._fit.max_width)
        return rows[self._parts.get(index, 0)]


def digest_of(examples: Sequence[Example]) -> str:
    """64 bits of all examples: their words, spans and labels, in their order."""
    if isinstance(examples, IndexedExamples):
        return examples.digest
    digest = hashlib.blake2b(digest_size=8)
    for example in examples:
        digest.update(_content(example))
    return digest.hexdigest()


def _content(example: Example) -> bytes:
    spans = [(span.start, span.end, span.label) for span in example.spans]
    content: tuple[object, ...] = (example.word_texts, spans, example.labels, example.negatives)
    if example.gold_relations is not None:
        content += (example.gold_relations,)
    if example.source:
        content += (example.source,)
    return repr(content).encode("utf-8", "surrogatepass")


def _coverage(examples: IndexedExamples, num_rows: int, max_width: int | None, cut: Account) -> Coverage:
    """`cut`: the account of the examples that are more than one row."""
    widest = sys.maxsize if max_width is None else max_width
    num_gold, num_cut = examples.widths.total(), cut.coverage().lost.get(CUT, 0)
    num_wide = sum(num for width, num in examples.widths.items() if width > widest)
    lost = {reason: num for reason, num in ((TOO_WIDE, num_wide), (CUT, num_cut)) if num}
    relations = examples.relation_widths.total()
    learnt = sum(num for width, num in examples.relation_widths.items() if width <= widest) - cut.num_relations_cut
    return Coverage(len(examples), num_rows, num_gold, num_gold - num_wide - num_cut, lost, relations, learnt)


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
