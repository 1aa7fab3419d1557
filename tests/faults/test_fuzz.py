"""Lines that nobody would write, through every reader: no crash, no hang, and each refusal at its line."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from spanwright.data.records import read_records
from support.defects import KINDS, clean, written
from support.scale import times

LINES = int(os.environ.get("SPANWRIGHT_FUZZ_LINES", times(25_000, 1_000_000)))
PIECES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\ud800",
    b"\xff",
    b"\x00",
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
]
PIECES += [b"\t", b" ", b"true", b"9" * 400, b"\xe2\x80\xa8", b"\r", b"B-", b"I-x", b"O", "é".encode(), b"[[[[[[[["]


def mutated(line: bytes, rng: random.Random) -> bytes:
    """A line with one to four changes; it stays one line."""
    for _ in range(rng.randrange(1, 5)):
        place, way = rng.randrange(len(line) + 1), rng.randrange(6)
        if way == 0:
            line = line[:place] + rng.choice(PIECES) + line[place:]
        elif way == 1:
            line = line[:place] + line[place + rng.randrange(1, 9) :]
        elif way == 2:
            line = line[:place]
        elif way == 3:
            line = line[:place] + bytes([rng.randrange(256)]) + line[place + 1 :]
        elif way == 4:
            line = line[:place] + line[: rng.randrange(40)] + line[place:]
        else:
            line = line.replace(rng.choice([b"3", b"person", b"ner", b"start", b"B"]), rng.choice(PIECES), 1)
    return line.replace(b"\n", b" ")


def json_lines(form: str) -> Callable[[Path, int, random.Random], None]:
    def write(path: Path, num: int, rng: random.Random) -> None:
        seeds = [kind.make(clean(form, 1)).rstrip(b"\n") for kind in KINDS[form] if kind.name not in ("too deep",)]
        seeds = [seed for seed in seeds if len(seed) < 2000] + [written(form, clean(form, 2)).rstrip(b"\n")] * 30
        with path.open("wb") as file:
            for _ in range(num):
                file.write(mutated(rng.choice(seeds), rng) + b"\n")

    return write


def sentences(path: Path, num: int, rng: random.Random) -> None:
    seeds = [kind.make(clean("conll", 1)) for kind in KINDS["conll"] if "long" not in kind.name]
    with path.open("wb") as file:
        done = 0
        while done < num:
            for line in rng.choice(seeds).split(b"\n")[: num - done]:
                file.write((mutated(line, rng) if line and rng.random() < 0.3 else line) + b"\n")
                done += 1


def compressed(path: Path, num: int, rng: random.Random) -> None:
    plain = path.with_suffix("")
    json_lines("gliner")(plain, num, rng)
    path.write_bytes(gzip.compress(plain.read_bytes(), 1))


READERS = {
    "words.jsonl": json_lines("gliner"),
    "text.jsonl": json_lines("text"),
    "sentences.conll": sentences,
    "words.jsonl.gz": compressed,
}


@pytest.mark.parametrize("name", READERS)
def test_nothing_that_is_read_crashes_a_reader(name, tmp_path, account):
    path, rng = tmp_path / name, random.Random(f"{name}/3")
    READERS[name](path, LINES, rng)
    read = refused = last = 0
    for record in read_records(path):
        line = int(record.place.rpartition(":")[2])
        assert last < line <= LINES
        last = line
        read += 1
        if record.example is None:
            assert record.defects, record.place
            refused += 1
        for defect in record.defects:
            file, _, where = defect.place.rpartition(":")
            assert file == str(path)
            assert where == str(line) if "conll" not in name else line <= int(where) <= LINES
            assert len(defect.message) < 1000
    account("fuzzed lines", reader=name, lines=LINES, records=read, refused=refused)
    assert refused > 0
    assert read > refused


def test_an_array_of_anything(tmp_path, account):
    """One JSON array for each few elements: what follows a broken one is not read, so there are many files."""
    rng, path = random.Random(9), tmp_path / "array.json"
    seeds = [written("gliner", clean("gliner", number)).rstrip(b"\n") for number in range(4)]
    done = refused = 0
    while done < times(2_000, 200_000):
        elements = [rng.choice(seeds) if rng.random() < 0.8 else mutated(rng.choice(seeds), rng) for _ in range(8)]
        path.write_bytes(b"[\n" + b",\n".join(elements) + b"\n]" * (rng.random() < 0.9))
        lines = len(elements) + 2
        for record in read_records(path):
            assert record.example is not None or record.defects
            assert 1 <= int(record.place.rpartition(":")[2]) <= lines
            refused += record.example is None
        done += len(elements)
    account("fuzzed array elements", elements=done, refused=refused)
    assert refused > 0


def test_values_of_every_type_in_every_place(tmp_path):
    """JSON that is right as JSON and wrong as data, one place at a time."""
    values = [None, True, 0, -1, 1.5, 10**30, "", "x", [], [[]], {}, {"a": 1}, [0, 1], "\ud800", [None], float("inf")]
    path = tmp_path / "typed.jsonl"
    with path.open("w") as file:
        for form in ("gliner", "text"):
            for place in _places(clean(form, 1)):
                for value in values:
                    file.write(json.dumps(_with(clean(form, 1), place, value)) + "\n")
    for record in read_records(path):
        assert record.example is not None or record.defects
        if record.example is not None:
            length = len(record.example.words)
            assert all(0 <= span.start < span.end <= length for span in record.example.spans)
            assert len(record.example.spans) + sum(d.num_spans for d in record.defects) == record.num_spans


def _places(value, before=()):
    yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*before, key))


def _with(value, place, new):
    if not place:
        return new
    value[place[0]] = _with(value[place[0]], place[1:], new)
    return value
