"""From raw records to examples, with every defect named: the one road of reading, checking and converting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spanwright.data.notes import Notes, Record, brief, is_index, label_list
from spanwright.data.relations import read_relations
from spanwright.data.source import Raw, raw_records
from spanwright.entities import Example, Span, Word, join_words
from spanwright.text.words import Split, splitter

_SPAN_KEYS = (
    "entities",
    "spans",
    "labels",
    "label",
    "ents",
    "annotations",
)  # JSON keys of character spans, as tools name them


def read_records(path: Path, *, split: Split | None = None, exclusive_ends: bool = False) -> Iterator[Record]:
    """The records of a file in any readable format, one at a time.

    split: how raw text becomes words, by default the published rule. exclusive_ends: whether ``ner`` gives the word
    after the last instead of the last.

    Raises:
        DataError: the file cannot be opened, or is damaged.

    """
    reader = RecordReader(path, split=split, exclusive_ends=exclusive_ends)
    for raw in raw_records(path):
        yield reader.read(raw)


class RecordReader:
    """Makes records of what stands in a file. Arguments as those of `read_records`."""

    def __init__(self, path: Path, *, split: Split | None = None, exclusive_ends: bool = False) -> None:
        self._name = path.name if path.parent == Path() else str(path)
        self._split = split or splitter("whitespace")
        self._exclusive_ends = exclusive_ends

    def read(self, raw: Raw) -> Record:
        """The record of one raw value."""
        record = Record(f"{self._name}:{raw.line}", None, 0)
        note = Notes(record)
        for key in raw.repeated_keys:
            note("repeated-key", key, f"`{key}` must stand once, but is repeated; the last one counts.", "warning")
        value = raw.value
        if raw.problem:
            note("unreadable", "", f"{raw.problem}.")
        elif isinstance(value, list) and value and isinstance(value[0], tuple):
            self._read_sentence(record, note, value)
        elif isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict):
            self._read_text(record, note, {"text": value[0], **value[1]})
        elif not isinstance(value, dict):
            note("not-an-example", "", f"the record must be a JSON object, but is {brief(value)}.")
        elif "tokenized_text" in value:
            self._read_words(record, note, value)
        elif "text" in value:
            self._read_text(record, note, value)
        else:
            note("not-an-example", "", "the record must have `tokenized_text` (words) or `text`, but has neither.")
        return record

    def _read_words(self, record: Record, note: Notes, value: dict[str, Any]) -> None:
        """GLiNER's own form."""
        words, spans = value["tokenized_text"], value.get("ner")
        record.num_spans = len(spans) if isinstance(spans, list) else 0
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            note.row(
                "wrong-type", "tokenized_text", f"`tokenized_text` must be a list of strings, but is {brief(words)}."
            )
            return
        if not words:
            note.row("empty-text", "tokenized_text", "`tokenized_text` must have words, but is empty.")
            return
        if not isinstance(spans, list):
            shown = "absent" if "ner" not in value else brief(spans)
            note.row("wrong-type", "ner", f"`ner` must be a list of [first, last, label], but is {shown}.")
            return
        found = [self._word_span(note, index, item, len(words)) for index, item in enumerate(spans)]
        self._finish(record, note, value, " ".join(words), join_words(words), found)

    def _word_span(self, note: Notes, index: int, item: Any, length: int) -> Span | None:
        where = f"ner[{index}]"
        if not isinstance(item, (list, tuple)) or len(item) != 3:
            return note.span("wrong-type", where, f"`{where}` must be [first, last, label], but is {brief(item)}.")
        first, last, label = item
        if not is_index(first) or not is_index(last):
            shown = brief([first, last])
            return note.span("wrong-type", where, f"`{where}` must have whole numbers for words, but has {shown}.")
        end = last if self._exclusive_ends else last + 1
        remedy = ""
        if last == length and not self._exclusive_ends:
            remedy = " Are the ends exclusive? Then `spanwright convert --exclusive-ends` mends them."
        if first < 0 or last < 0:
            return note.span("negative", where, f"`{where}` must not be negative, but is [{first}, {last}].")
        if end <= first:
            return note.span("reversed", where, f"`{where}` must end after it starts, but is [{first}, {last}].")
        if end > length:
            message = f"`{where}` must end within its {length} words, but is [{first}, {last}].{remedy}"
            return note.span("out-of-range", where, message)
        return note.labelled(where, first, end, label)

    def _read_text(self, record: Record, note: Notes, value: dict[str, Any]) -> None:
        """Raw text with spans in characters."""
        text = value["text"]
        key = next((key for key in _SPAN_KEYS if isinstance(value.get(key), list)), "entities")
        spans = value.get(key)
        record.num_spans = len(spans) if isinstance(spans, list) else 0
        if not isinstance(text, str):
            note.row("wrong-type", "text", f"`text` must be a string, but is {brief(text)}.")
            return
        if not isinstance(spans, list):
            shown = "absent" if spans is None else brief(spans)
            note.row("wrong-type", "entities", f"`entities` must be a list of spans, but is {shown}.")
            return
        words = self._split(text)
        if not words:
            note.row("empty-text", "text", "`text` must have something in it, but is empty.")
            return
        starts = {word.start: index for index, word in enumerate(words)}
        ends = {word.end: index + 1 for index, word in enumerate(words)}
        found = [
            self._character_span(note, f"{key}[{index}]", item, text, words, starts, ends)
            for index, item in enumerate(spans)
        ]
        self._finish(record, note, value, text, words, found)

    def _character_span(
        self,
        note: Notes,
        where: str,
        item: Any,
        text: str,
        words: Sequence[Word],
        starts: dict[int, int],
        ends: dict[int, int],
    ) -> Span | None:
        if isinstance(item, dict):
            item = [item.get("start"), item.get("end"), item.get("label")]
        if not isinstance(item, (list, tuple)) or len(item) != 3:
            return note.span("wrong-type", where, f"`{where}` must be start, end, label, but is {brief(item)}.")
        start, end, label = item
        if not is_index(start) or not is_index(end):
            shown = brief([start, end])
            return note.span("wrong-type", where, f"`{where}` must have whole numbers for characters, but has {shown}.")
        if start < 0 or end < 0:
            return note.span("negative", where, f"`{where}` must not be negative, but is [{start}, {end}).")
        if end <= start:
            return note.span("reversed", where, f"`{where}` must end after it starts, but is [{start}, {end}).")
        if end > len(text):
            message = f"`{where}` must end within its {len(text)} characters, but is [{start}, {end})."
            return note.span("out-of-range", where, message)
        inner = text[start:end]
        if not inner.strip():
            return note.span("cuts-a-word", where, f"`{where}` must have a word in it, but is blank.")
        start, end = start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())
        if start not in starts or end not in ends:
            cut = [w.text for w in words if w.start < start < w.end or w.start < end < w.end]
            message = (
                f"`{where}` ({inner[:40]!r}) must begin and end with words, but cuts {', '.join(map(repr, cut[:2]))}."
            )
            return note.span("cuts-a-word", where, message)
        return note.labelled(where, starts[start], ends[end], label)

    def _read_sentence(self, record: Record, note: Notes, rows: list[tuple[int, str, str]]) -> None:
        """A CoNLL sentence. Read as conlleval does, so IOB1, IOB2, BIOES and BILOU need not be told apart."""
        spans: list[Span] = []
        start, label = None, ""
        for index, (line, _, tag) in enumerate([*rows, (0, "", "O")]):
            prefix, dash, kind = tag.partition("-")
            if tag != "O" and (prefix not in set("BIESLUM") or not dash or not kind):
                message = f"the tag must be O or B-, I-, E-, S- and a label, but is {tag!r}."
                note("bad-tag", "tag", message, place=f"{self._name}:{line}", num_spans=1)
                record.num_spans += 1
                prefix, kind = "O", ""
            if start is not None and (prefix in "OBSU" or kind != label):
                spans.append(Span(start, index, label))
                start = None
            if prefix != "O" and start is None:
                start, label = index, kind
            if start is not None and prefix in "ESLU":
                spans.append(Span(start, index + 1, label))
                start = None
        words = [word for _, word, _ in rows]
        note.word_lines = [line for line, _, _ in rows]
        record.num_spans += len(spans)
        self._finish(record, note, {}, " ".join(words), join_words(words), spans)

    def _finish(
        self,
        record: Record,
        note: Notes,
        value: dict[str, Any],
        text: str,
        words: tuple[Word, ...],
        found: Sequence[Span | None],
    ) -> None:
        """The example of a record. In `found`, None stands for a span that was left out."""
        spans = [span for span in found if span is not None]
        unique = list(dict.fromkeys(spans))
        if len(unique) < len(spans):
            count = len(spans) - len(unique)
            message = f"a span must stand once, but {count} stand{'s' * (count == 1)} again."
            note("repeated-span", "ner", message, "warning", num_spans=count)
        labels = label_list(note, value, "ner_labels")
        negatives = label_list(note, value, "ner_negatives") or ()
        own = {span.label for span in unique}
        if labels is not None and (lacking := sorted(own - set(labels))):
            message = (
                f"`ner_labels` must list the row's own labels, but lacks {', '.join(lacking)}; they are asked too."
            )
            note("label-not-listed", "ner_labels", message, "warning")
        if clash := sorted(own & set(negatives)):
            message = f"`ner_negatives` must be absent from the row, but {', '.join(clash)} is in it."
            note("false-negative", "ner_negatives", message)
            negatives = tuple(label for label in negatives if label not in own)
        if (empty := next((place for place, word in enumerate(words) if not word.text.strip()), None)) is not None:
            message = "every word must have something in it, but one is empty."
            note("empty-word", "tokenized_text", message, "warning", place=note.place_of_word(empty))
        if any("\ud800" <= char <= "\udfff" for char in text):
            note(
                "surrogate",
                "text",
                "the text must be Unicode, but has a lone surrogate; it is read as U+FFFD.",
                "warning",
            )
        relations = read_relations(note, value, found)
        source = value.get("src", "")
        if not isinstance(source, str):
            note("wrong-type", "src", f"`src` must be the name of a data set, but is {brief(source)}.", "warning")
            source = ""
        record.example = Example(text, words, tuple(unique), labels, negatives, relations, source, record.place)
