"""Files as streams of raw records with line numbers: JSON lines, JSON arrays, CoNLL sentences; .gz and .xz too."""

from __future__ import annotations

import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from spanwright.errors import DataError

Format = Literal["gliner", "text", "conll"]

MAX_LINE = 64 * 2**20  # bytes; a longer line is a defect, not a reason to fill the memory
_CHUNK = 1 << 16
_DAMAGED = (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)


@dataclass(frozen=True, slots=True)
class Raw:
    """One record as it stands in a file: a JSON value, or the columns of a CoNLL sentence; or why there is none."""

    line: int
    value: Any = None
    problem: str = ""
    repeated_keys: tuple[str, ...] = ()


def open_bytes(path: Path) -> IO[bytes]:
    """A file's bytes, decompressed by its suffix.

    Raises:
        DataError: it cannot be opened.

    """
    try:
        if path.suffix == ".gz":
            return cast("IO[bytes]", gzip.open(path, "rb"))
        if path.suffix == ".xz":
            return lzma.open(path, "rb")
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} must be a file that can be read, but is not: {error.strerror or error}.") from None


def raw_records(path: Path) -> Iterator[Raw]:
    """The records of a file, in whichever of the three forms its first lines show."""
    try:
        kind = _kind(path)
        with open_bytes(path) as file:
            if kind == "array":
                yield from _array(file)
            elif kind == "lines":
                yield from _json_lines(file)
            else:
                yield from _sentences(file)
    except _DAMAGED as error:
        raise DataError(f"{path} must be a {path.suffix[1:]} file, but is damaged or none: {error}.") from None
    except OSError as error:
        raise DataError(f"{path} must be a file that can be read, but is not: {error.strerror or error}.") from None


def _kind(path: Path) -> Literal["array", "lines", "conll"]:
    """Read off the first line with something in it; where that is cut short, off its first character."""
    with open_bytes(path) as file:
        first = _next_content(file)
        second = _next_content(file)
    plain = path.name.removesuffix(".gz").removesuffix(".xz")
    if path.suffixes[-1:] in ([".conll"], [".bio"], [".iob"]) or first[:1] not in (b"{", b"["):
        return "lines" if plain.endswith((".jsonl", ".json")) else "conll"
    if first.startswith(b"{"):
        return "lines"
    try:
        value = json.loads(first)
    except RecursionError:
        return "lines" if plain.endswith(".jsonl") else "array"
    except ValueError:
        return "array"
    spacy_pair = len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)
    return "lines" if spacy_pair or (second and plain.endswith(".jsonl")) else "array"


def _next_content(file: IO[bytes]) -> bytes:
    """The next line that has something in it, or its beginning; empty at the end of the file."""
    content = b""
    while not content and (line := file.readline(_CHUNK)):
        content = line.removeprefix(b"\xef\xbb\xbf").strip()
    return content


def text_lines(file: IO[bytes]) -> Iterator[tuple[int, str | None, str]]:
    """(number, text, problem) of each line; the text is None where there is a problem."""
    number = 0
    while raw := file.readline(MAX_LINE):
        number += 1
        if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        yield number, *_decoded(number, raw)


def _decoded(number: int, raw: bytes) -> tuple[str | None, str]:
    """The text of a line, or None and what is wrong with it."""
    if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
        return None, f"the line must be shorter than {MAX_LINE >> 20} MiB, but is longer"
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return raw.decode("utf-8").rstrip("\r\n"), ""
    except UnicodeDecodeError as error:
        return None, f"the line must be UTF-8, but has the byte 0x{raw[error.start]:02x} at {error.start}"


def json_line(number: int, raw: bytes) -> Raw | None:
    """The record on one line of a JSON-lines file; None on a blank one."""
    text, problem = _decoded(number, raw)
    if text is None:
        return Raw(number, problem=problem)
    return _parsed(number, text) if text.strip() else None


def is_json_lines(path: Path) -> bool:
    """Whether a file is uncompressed and holds a JSON value on each line.

    Raises:
        DataError: it cannot be opened.

    """
    return path.suffix not in (".gz", ".xz") and _kind(path) == "lines"


def _json_lines(file: IO[bytes]) -> Iterator[Raw]:
    for number, text, problem in text_lines(file):
        if text is None:
            yield Raw(number, problem=problem)
        elif text.strip():
            yield _parsed(number, text)


def _parsed(number: int, text: str) -> Raw:
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(items)
        if len(seen) < len(items):
            names = [name for name, _ in items]
            repeated.extend(sorted({name for name in names if names.count(name) > 1}))
        return seen

    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        return Raw(number, problem="the line must be JSON of an example, but is nested too deep")
    except ValueError as error:
        return Raw(number, problem=f"the line must be JSON, but is not: {error}")
    return Raw(number, value, repeated_keys=tuple(repeated))


def _array(file: IO[bytes]) -> Iterator[Raw]:
    """The elements of one JSON array, decoded one after the other from a buffer that holds little more than one."""
    decoder = json.JSONDecoder()
    text = _Text(file)
    text.skip("\ufeff \t\r\n")
    text.drop(1)  # the opening bracket
    while True:
        text.skip(" \t\r\n,")
        if text.buffer.startswith("]"):
            return
        if not text.buffer:
            yield Raw(text.line, problem="the array must end with `]`, but the file ends before")
            return
        try:
            value, end = decoder.raw_decode(text.buffer)
        except RecursionError:
            yield Raw(text.line, problem="the element must be JSON of an example, but is nested too deep")
            return
        except ValueError as error:
            if len(text.buffer) < MAX_LINE and text.grow():
                continue
            yield Raw(text.line, problem=f"the element must be JSON, but is not: {error}; the rest was not read")
            return
        if end == len(text.buffer) and text.grow():
            continue  # a number may go on in what comes next
        yield Raw(text.line, value)
        text.drop(end)


class _Text:
    """A file's text from where reading stands: as much of it as was asked for, and the number of its first line."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self.buffer = ""
        self.line = 1

    def grow(self) -> bool:
        """Read on, twice as much each time; False at the end of the file."""
        raw = self._file.read(max(_CHUNK, len(self.buffer)))
        self.buffer += self._decoder.decode(raw, final=not raw)
        return bool(raw)

    def drop(self, count: int) -> None:
        """Leave `count` characters behind."""
        self.line += self.buffer.count("\n", 0, count)
        self.buffer = self.buffer[count:]

    def skip(self, characters: str) -> None:
        """Leave behind all of `characters` that come next."""
        while True:
            rest = self.buffer.lstrip(characters)
            self.drop(len(self.buffer) - len(rest))
            if rest or not self.grow():
                return


def _sentences(file: IO[bytes]) -> Iterator[Raw]:
    """Sentences of a CoNLL file: lists of (line, word, tag). The first column is the word, the last the tag."""
    rows: list[tuple[int, str, str]] = []
    problem: tuple[int, str] | None = None
    columns: int | None = None
    for number, text, trouble in text_lines(file):
        if text is not None and not text.strip():
            if rows or problem:
                yield _sentence(rows, problem)
            rows, problem, columns = [], None, None
            continue
        if text is None:
            problem = problem or (number, trouble)
            continue
        if text.startswith("-DOCSTART-") or (text.startswith("# ") and not rows):
            continue
        fields = text.split("\t") if "\t" in text else text.split()
        columns = columns or len(fields)
        if len(fields) < 2:
            problem = problem or (number, f"the line must have a word and a tag, but is {text[:60]!r}")
        elif len(fields) != columns:
            problem = problem or (number, f"the line must have {columns} columns as those above, but has {len(fields)}")
        else:
            rows.append((number, fields[0], fields[-1].strip()))
    if rows or problem:
        yield _sentence(rows, problem)


def _sentence(rows: list[tuple[int, str, str]], problem: tuple[int, str] | None) -> Raw:
    if problem is not None:
        return Raw(problem[0], problem=problem[1])
    return Raw(rows[0][0], rows)
