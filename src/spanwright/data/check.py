"""Everything that is wrong, or looks wrong, with data files, and a summary of what is in them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spanwright.data.notes import Defect, Record
from spanwright.data.records import read_records
from spanwright.entities import Example, Span
from spanwright.text.words import Split

MAX_LISTED = 10_000  # defects kept whole; all are counted
_LENGTH_STEPS = (8, 16, 32, 64, 128, 256, 384, 512, 1024)


@dataclass
class SplitSummary:
    """What one file holds: sentences, words, spans; labels and widths with their counts; lengths by upper bound."""

    name: str
    num_examples: int = 0
    num_words: int = 0
    num_spans: int = 0
    num_nested: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    longest: int = 0
    relations: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "file": self.name,
            "sentences": self.num_examples,
            "words": self.num_words,
            "spans": self.num_spans,
            "nested_spans": self.num_nested,
            "labels": dict(self.labels.most_common()),
            "widths": {str(width): self.widths[width] for width in sorted(self.widths)},
            "lengths_up_to": {str(length): self.lengths[length] for length in sorted(self.lengths)},
            "longest": self.longest,
            "relations": dict(self.relations.most_common()),
        }


@dataclass
class CheckReport:
    """Defects by place, counts of all of them by code, and a summary of each file."""

    defects: list[Defect] = field(default_factory=list)
    num_errors: int = 0
    num_warnings: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    files: list[SplitSummary] = field(default_factory=list)

    def add(self, defect: Defect) -> None:
        """Count a defect, and keep it while there is room."""
        self.codes[defect.code] += 1
        if defect.severity == "error":
            self.num_errors += 1
        else:
            self.num_warnings += 1
        if len(self.defects) < MAX_LISTED:
            self.defects.append(defect)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "errors": self.num_errors,
            "warnings": self.num_warnings,
            "codes": dict(self.codes.most_common()),
            "files": [summary.to_dict() for summary in self.files],
            "defects": [defect.to_dict() for defect in self.defects],
        }


def check(
    files: Sequence[str | Path],
    *,
    train: Sequence[str | Path] = (),
    dev: Sequence[str | Path] = (),
    max_width: int = 12,
    max_words: int = 384,
    split: Split | None = None,
    exclusive_ends: bool = False,
    progress: Callable[[int], object] | None = None,
) -> CheckReport:
    """Read every file and report every defect. Memory holds digests and labels, not texts.

    files: looked at alone and against each other for repeated sentences; train and dev: the same, and labels of dev
    that train lacks are reported. max_width, max_words: limits of the model, in words. progress: called with how many
    records were read since the last call.

    Raises:
        DataError: a file cannot be read at all.

    """
    report = CheckReport()
    seen: dict[bytes, str] = {}
    known: set[str] = set()
    for path in [*train, *files, *dev]:
        checker = _FileChecker(report, SplitSummary(str(path)), seen, max_width, max_words)
        for record in read_records(Path(path), split=split, exclusive_ends=exclusive_ends):
            checker.look(record)
            if progress is not None:
                progress(1)
        checker.finish()
        if path in train:
            known.update(checker.summary.labels)
        if path in dev and train:
            _compare_labels(report, str(path), checker.summary.labels, known)
    _near_duplicates(report)
    return report


class _FileChecker:
    """Looks at the records of one file."""

    def __init__(
        self, report: CheckReport, summary: SplitSummary, seen: dict[bytes, str], max_width: int, max_words: int
    ) -> None:
        self.summary = summary
        self._report = report
        self._seen = seen
        self._max_width = max_width
        self._max_words = max_words
        self._num_odd_ends = 0
        report.files.append(summary)

    def look(self, record: Record) -> None:
        for defect in record.defects:
            self._report.add(defect)
        example = record.example
        if example is None:
            return
        self._count(example)
        self._lengths(example)
        self._overlaps(example)
        self._repetition(example)

    def finish(self) -> None:
        """What only the whole file shows."""
        num = self.summary.num_spans
        if num >= 20 and self._num_odd_ends > 0.4 * num:
            message = (
                f"ends must be inclusive, but {self._num_odd_ends} of {num} spans end with a word that looks as if it "
                "came after them. If the ends are exclusive, pass --exclusive-ends."
            )
            self._report.add(Defect(self.summary.name, "ner", "exclusive-looking-ends", message, "warning"))
        if self.summary.num_examples == 0:
            message = "the file must hold examples, but holds none that can be read."
            self._report.add(Defect(self.summary.name, "", "empty-file", message))

    def _count(self, example: Example) -> None:
        summary = self.summary
        summary.num_examples += 1
        summary.num_words += len(example.words)
        summary.longest = max(summary.longest, len(example.words))
        summary.relations.update(relation.label for relation in example.relations)
        summary.lengths[next((step for step in _LENGTH_STEPS if len(example.words) <= step), 10**6)] += 1
        for span in example.spans:
            summary.num_spans += 1
            summary.labels[span.label] += 1
            summary.widths[span.end - span.start] += 1
            last = example.words[span.end - 1].text
            if span.end - span.start > 1 and (not any(map(str.isalnum, last)) or last in _FUNCTION_WORDS):
                self._num_odd_ends += 1

    def _lengths(self, example: Example) -> None:
        for span in example.spans:
            width = span.end - span.start
            if width > self._max_width:
                message = (
                    f"a span must be at most {self._max_width} words wide to be learnt, but {_named(span)} is {width}."
                )
                self._warn(example, "ner", "too-wide", message)
        if len(example.words) > self._max_words:
            message = (
                f"a sentence longer than the model's {self._max_words} words is read in windows, and this one has "
                f"{len(example.words)}."
            )
            self._warn(example, "tokenized_text", "longer-than-window", message)

    def _overlaps(self, example: Example) -> None:
        ordered = sorted({(span.start, span.end) for span in example.spans})
        open_spans: list[tuple[int, int]] = []
        for start, end in ordered:
            open_spans = [other for other in open_spans if other[1] > start]
            crossing = next((other for other in open_spans if other[0] < start and other[1] < end), None)
            if crossing is not None:
                words = f"words [{crossing[0]}, {crossing[1]}) and [{start}, {end})"
                message = f"spans must nest or lie apart, but {words} cross."
                self._warn(example, "ner", "overlapping", message)
            self.summary.num_nested += bool(open_spans)
            open_spans.append((start, end))

    def _repetition(self, example: Example) -> None:
        text = "\0".join(word.text.lower() for word in example.words)
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        before = self._seen.setdefault(digest, example.origin)
        if before != example.origin:
            other = before.rsplit(":", 1)[0] != example.origin.rsplit(":", 1)[0]
            code = "repeated-across-files" if other else "repeated-sentence"
            self._warn(
                example, "tokenized_text", code, f"a sentence must stand once, but this one stands at {before} too."
            )

    def _warn(self, example: Example, name: str, code: str, message: str) -> None:
        self._report.add(Defect(example.origin, name, code, message, "warning"))


_FUNCTION_WORDS = frozenset(
    "a an the of in on at and or to for by with from is was are were has had that who , . ; :".split()  # noqa: SIM905
)


def _compare_labels(report: CheckReport, path: str, labels: Mapping[str, int], known: set[str]) -> None:
    for label in sorted(set(labels) - known):
        message = f"labels of dev data must occur in training data, but {label!r} ({labels[label]} spans) does not."
        report.add(Defect(path, "label", "label-unseen-in-train", message, "warning"))


def _near_duplicates(report: CheckReport) -> None:
    """Labels that differ in case, spacing, hyphens or a plural only."""
    counts: Counter[str] = Counter()
    for summary in report.files:
        counts.update(summary.labels)
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        alike[_folded(label)].append(label)
    for labels in alike.values():
        if len(labels) > 1:
            shown = ", ".join(f"{label!r} ({counts[label]})" for label in labels)
            message = f"one label must have one name, but these look like the same: {shown}."
            report.add(
                Defect(", ".join(s.name for s in report.files), "label", "near-duplicate-labels", message, "warning")
            )


def _folded(label: str) -> str:
    plain = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", label).casefold()).strip()
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain


def _named(span: Span) -> str:
    return f"[{span.start}, {span.end}) {span.label!r}"
