"""Sentences with their entities marked by hand, as blocks of text, to JSON lines in GLiNER's form.

    python recipes/written.py FILE.txt ... --output schemas.jsonl.xz --held-out schemas_dev.jsonl.xz --against DIR

A block is a header, `# topic | label; label; ...`, and sentences with `{mention|label}` in them. All mentions that fit
a label of the header are marked, so that a label which is absent from a sentence is a negative there. One block in 25
is held out. A sentence is left out that shares ten words in a row with a sentence below `--against`.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spanwright.text.words import splitter

_MENTION = re.compile(r"\{([^{}|]*)\|([^{}|]*)\}")
_HELD_OUT = 25
_SHARED = 10


def blocks(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """The labels and the sentences of each block."""
    block: tuple[list[str], list[str]] | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            if block is not None:
                yield block
            block = ([label.strip() for label in line.partition("|")[2].split(";") if label.strip()], [])
        elif line.strip() and block is not None:
            block[1].append(line.strip())
    if block is not None:
        yield block


def row(labels: list[str], sentence: str) -> dict[str, Any]:
    """A sentence in GLiNER's form."""
    split, words, spans = splitter("whitespace"), [], []
    end = 0
    for found in _MENTION.finditer(sentence):
        words += [word.text for word in split(sentence[end : found.start()])]
        first = len(words)
        words += [word.text for word in split(found[1])]
        spans.append([first, len(words) - 1, found[2].strip()])
        end = found.end()
    words += [word.text for word in split(sentence[end:])]
    own = {label for _, _, label in spans}
    return {
        "tokenized_text": words,
        "ner": spans,
        "ner_negatives": [label for label in labels if label not in own],
        "src": "schemas",
    }


def runs_of(words: list[str]) -> set[tuple[str, ...]]:
    lower = [word.lower() for word in words]
    return {tuple(lower[start : start + _SHARED]) for start in range(len(lower) - _SHARED + 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--held-out", required=True, type=Path)
    parser.add_argument("--against", type=Path, help="folder with evaluation sets")
    options = parser.parse_args()
    seen: set[tuple[str, ...]] = set()
    whole: set[str] = set()
    for path in sorted(options.against.rglob("*.jsonl")) if options.against else []:
        for line in path.read_text(encoding="utf-8").splitlines():
            words = json.loads(line)["tokenized_text"]
            seen |= runs_of(words)
            whole.add(" ".join(words).lower())
    counts = [0, 0, 0]
    with lzma.open(options.output, "wt", encoding="utf-8") as train, lzma.open(options.held_out, "wt") as held_out:
        for number, (labels, sentences) in enumerate(block for path in options.files for block in blocks(path)):
            held = number % _HELD_OUT == _HELD_OUT - 1
            for sentence in sentences:
                line = row(labels, sentence)
                words = line["tokenized_text"]
                if runs_of(words) & seen or " ".join(words).lower() in whole:
                    counts[2] += 1
                    continue
                counts[held] += 1
                (held_out if held else train).write(json.dumps(line, ensure_ascii=False) + "\n")
    print(f"{counts[0]:,} lines, {counts[1]:,} held out, {counts[2]:,} left out")


if __name__ == "__main__":
    main()
