"""Forty kinds of defects and more for each format, each with what must be said of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WORDS = ["Ada", "Lovelace", "met", "Charles", "Babbage", "in", "London", "on", "a", "rainy", "day", "of", "June", "."]
FORMATS = ("gliner", "text", "conll")


@dataclass(frozen=True)
class Kind:
    """One kind: the record's bytes, made from a clean record; code and field of the defect; its line in it."""

    name: str
    make: Callable[[Any], bytes]
    code: str
    field: str = ""
    line: int = 0


def clean(form: str, number: int) -> Any:
    """The clean record with a number of its own, so that no sentence stands twice."""
    words = [*WORDS[:6], f"Town{number}", *WORDS[7:]]
    if form == "gliner":
        return {"tokenized_text": words, "ner": [[0, 1, "person"], [3, 4, "person"], [6, 6, "city"]]}
    if form == "text":
        text = " ".join(words)
        spans = [("Ada Lovelace", "person"), ("Charles Babbage", "person"), (words[6], "city")]
        return {
            "text": text,
            "entities": [{"start": text.index(s), "end": text.index(s) + len(s), "label": k} for s, k in spans],
        }
    tags = ["B-person", "I-person", "O", "B-person", "I-person", "O", "B-city"] + ["O"] * (len(words) - 7)
    return [list(pair) for pair in zip(words, tags, strict=True)]


def written(form: str, record: Any) -> bytes:
    """A record as its format has it."""
    if form == "conll":
        return "".join("\t".join(row) + "\n" for row in record).encode() + b"\n"
    return json.dumps(record).encode() + b"\n"


def _edit(form: str, change: Callable[[Any], object]) -> Callable[[Any], bytes]:
    def make(record: Any) -> bytes:
        record = copy.deepcopy(record)
        change(record)
        return written(form, record)

    return make


def _line(text: str | bytes) -> Callable[[Any], bytes]:
    return lambda record: (text.encode() if isinstance(text, str) else text) + b"\n"


def _bytes(form: str, change: Callable[[bytes], bytes]) -> Callable[[Any], bytes]:
    return lambda record: change(written(form, record).rstrip(b"\n")) + b"\n"


def _json_kinds(form: str, words_key: str) -> list[Kind]:
    """What can be wrong with a line of JSON, whatever is on it."""

    def raw(name: str, change: Callable[[bytes], bytes], code: str, field: str = "") -> Kind:
        return Kind(name, _bytes(form, change), code, field)

    def edit(name: str, change: Callable[[Any], object], code: str, field: str) -> Kind:
        return Kind(name, _edit(form, change), code, field)

    return [
        Kind("broken", _line("{broken"), "unreadable"),
        raw("cut short", lambda line: line[:-9], "unreadable"),
        raw("a comma too many", lambda line: line[:-1] + b",}", "unreadable"),
        raw("single quotes", lambda line: line.replace(b'"', b"'"), "unreadable"),
        raw("not UTF-8", lambda line: line.replace(b"Ada", b"Ad\xe9"), "unreadable"),
        raw("two objects", lambda line: line + line, "unreadable"),
        Kind("too deep", _line("[" * 100_000 + "]" * 100_000), "unreadable"),
        Kind("a list", _line("[1, 2, 3]"), "not-an-example"),
        Kind("a string", _line('"Ada"'), "not-an-example"),
        Kind("a number", _line("17"), "not-an-example"),
        Kind("null", _line("null"), "not-an-example"),
        Kind("an empty object", _line("{}"), "not-an-example"),
        raw("a misspelled key", lambda line: line.replace(words_key.encode(), b"texts", 1), "not-an-example"),
        edit("labels no list", lambda r: r.update(ner_labels="person"), "wrong-type", "ner_labels"),
        edit("an empty label listed", lambda r: r.update(ner_labels=["person", ""]), "wrong-type", "ner_labels"),
        edit("negatives no list", lambda r: r.update(ner_negatives=7), "wrong-type", "ner_negatives"),
        edit("a negative that is there", lambda r: r.update(ner_negatives=["city"]), "false-negative", "ner_negatives"),
        edit("own label not listed", lambda r: r.update(ner_labels=["person"]), "label-not-listed", "ner_labels"),
        edit(
            "a label listed twice",
            lambda r: r.update(ner_labels=["person", "city", "city"]),
            "repeated-label",
            "ner_labels",
        ),
        raw("a key twice", lambda line: line[:-1] + b', "id": 1, "id": 2}', "repeated-key", "id"),
    ]


def _gliner() -> list[Kind]:
    def edit(name: str, change: Callable[[Any], object], code: str, field: str) -> Kind:
        return Kind(name, _edit("gliner", change), code, field)

    def span(name: str, value: Any, code: str) -> Kind:
        return edit(name, lambda r: r["ner"].__setitem__(1, value), code, "ner[1]")

    def words(name: str, value: Any, code: str) -> Kind:
        return edit(name, lambda r: r.update(tokenized_text=value), code, "tokenized_text")

    return [
        *_json_kinds("gliner", "tokenized_text"),
        words("words a string", "Ada Lovelace", "wrong-type"),
        words("a word a number", ["Ada", 7], "wrong-type"),
        words("words null", None, "wrong-type"),
        words("no words", [], "empty-text"),
        edit("spans absent", lambda r: r.pop("ner"), "wrong-type", "ner"),
        edit("spans an object", lambda r: r.update(ner={}), "wrong-type", "ner"),
        edit("spans null", lambda r: r.update(ner=None), "wrong-type", "ner"),
        edit("spans not a number", lambda r: r.update(ner=float("nan")), "wrong-type", "ner"),
        span("two fields", [3, 4], "wrong-type"),
        span("four fields", [3, 4, "person", 1], "wrong-type"),
        span("a span an object", {"start": 3}, "wrong-type"),
        span("a place a string", ["3", 4, "person"], "wrong-type"),
        span("a place a fraction", [3.5, 4, "person"], "wrong-type"),
        span("a place a truth", [True, 4, "person"], "wrong-type"),
        span("a place null", [3, None, "person"], "wrong-type"),
        span("a negative start", [-3, 4, "person"], "negative"),
        span("a negative end", [3, -1, "person"], "negative"),
        span("reversed", [4, 3, "person"], "reversed"),
        span("an exclusive end", [3, len(WORDS), "person"], "out-of-range"),
        span("far out", [3, 10**9, "person"], "out-of-range"),
        span("an empty label", [3, 4, ""], "empty-label"),
        span("a blank label", [3, 4, " "], "empty-label"),
        span("a label null", [3, 4, None], "empty-label"),
        span("a label a number", [3, 4, 7], "empty-label"),
        edit("a span twice", lambda r: r["ner"].append([3, 4, "person"]), "repeated-span", "ner"),
        edit("a span too wide", lambda r: r["ner"].__setitem__(1, [0, 13, "person"]), "too-wide", "ner"),
        edit("spans that cross", lambda r: r["ner"].__setitem__(1, [1, 2, "person"]), "overlapping", "ner"),
        edit("an empty word", lambda r: r["tokenized_text"].__setitem__(9, " "), "empty-word", "tokenized_text"),
        edit("a lone surrogate", lambda r: r["tokenized_text"].__setitem__(9, "\ud800x"), "surrogate", "text"),
        edit("too long", lambda r: r["tokenized_text"].extend(["."] * 400), "longer-than-window", "tokenized_text"),
    ]


def _text() -> list[Kind]:
    def edit(name: str, change: Callable[[Any], object], code: str, field: str) -> Kind:
        return Kind(name, _edit("text", change), code, field)

    def span(name: str, change: dict[str, Any], code: str) -> Kind:
        return edit(name, lambda r: r["entities"][1].update(change), code, "entities[1]")

    def lacking(key: str, code: str) -> Kind:
        return edit(f"no {key}", lambda r: r["entities"][1].pop(key), code, "entities[1]")

    def text(name: str, value: Any, code: str) -> Kind:
        return edit(name, lambda r: r.update(text=value), code, "text")

    start = len("Ada Lovelace met ")
    end = start + len("Charles Babbage")
    return [
        *_json_kinds("text", "text"),
        text("text a number", 7, "wrong-type"),
        text("text null", None, "wrong-type"),
        text("text a list", ["Ada"], "wrong-type"),
        text("text empty", "", "empty-text"),
        text("text blank", " \n ", "empty-text"),
        edit("spans absent", lambda r: r.pop("entities"), "wrong-type", "entities"),
        edit("a span a list of two", lambda r: r["entities"].__setitem__(1, [3, 4]), "wrong-type", "entities[1]"),
        edit("a span a string", lambda r: r["entities"].__setitem__(1, "Ada"), "wrong-type", "entities[1]"),
        lacking("start", "wrong-type"),
        lacking("end", "wrong-type"),
        lacking("label", "empty-label"),
        span("a place a string", {"start": str(start)}, "wrong-type"),
        span("a place a fraction", {"start": float(start)}, "wrong-type"),
        span("a place a truth", {"start": True}, "wrong-type"),
        span("a negative start", {"start": -1}, "negative"),
        span("a negative end", {"end": -1}, "negative"),
        span("reversed", {"start": end, "end": start}, "reversed"),
        span("empty", {"end": start}, "reversed"),
        span("out of range", {"end": 10**6}, "out-of-range"),
        span("blank", {"start": start - 1, "end": start}, "cuts-a-word"),
        span("cuts its first word", {"start": start + 2}, "cuts-a-word"),
        span("cuts its last word", {"end": end - 2}, "cuts-a-word"),
        span("an empty label", {"label": ""}, "empty-label"),
        span("a blank label", {"label": "\t"}, "empty-label"),
        span("a label a number", {"label": 7}, "empty-label"),
        span("a label a list", {"label": ["person"]}, "empty-label"),
        edit("a span twice", lambda r: r["entities"].append(r["entities"][1]), "repeated-span", "ner"),
        edit("a span too wide", _widen, "too-wide", "ner"),
        edit("a lone surrogate", lambda r: r.update(text=r["text"] + " \ud800x"), "surrogate", "text"),
        edit("too long", lambda r: r.update(text=r["text"] + " ." * 400), "longer-than-window", "tokenized_text"),
    ]


def _widen(record: Any) -> None:
    record["entities"][1].update(start=0, end=len(record["text"]) - 2)


def _conll() -> list[Kind]:
    def tag(value: str) -> Kind:
        return Kind(
            f"the tag {value!r}", _edit("conll", lambda r: r[8].__setitem__(1, value)), "bad-tag", "tag", line=8
        )

    def row(name: str, value: list[str], code: str = "unreadable", field: str = "") -> Kind:
        return Kind(name, _edit("conll", lambda r: r.__setitem__(8, value)), code, field, line=8)

    tags = [
        "X",
        "B",
        "I",
        "B-",
        "I-",
        "E-",
        "S-",
        "-person",
        "b-person",
        "B_person",
        "B:person",
        "B/person",
        "B.person",
    ]
    tags += [
        "0",
        "1",
        "person",
        "Z-person",
        "Bperson",
        "O-person",
        "N/A",
        "None",
        "_",
        "?",
        "o",
        "OO",
        "null",
        "NaN",
        "*",
    ]
    tags += ["BI-person", "-", "--", "1-person", "ß", "人", "B–person"]
    return [
        *map(tag, tags),
        row("no tag", ["a"]),
        row("a column too many", ["a", "x", "O"]),
        row("an empty word", ["", "O"], "empty-word", "tokenized_text"),
        Kind("not UTF-8", _bytes("conll", lambda b: b.replace(b"rainy", b"rain\xff") + b"\n"), "unreadable", line=9),
        Kind(
            "too long",
            _edit("conll", lambda r: r.extend([".", "O"] for _ in range(400))),
            "longer-than-window",
            "tokenized_text",
        ),
        Kind(
            "a span too wide",
            _edit("conll", lambda r: [x.__setitem__(1, "I-person") for x in r]),
            "too-wide",
            "ner",
        ),
    ]


KINDS: dict[str, list[Kind]] = {"gliner": _gliner(), "text": _text(), "conll": _conll()}
