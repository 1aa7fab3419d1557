"""One format to another, streaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from spanwright.data.notes import Defect
from spanwright.data.records import read_records
from spanwright.data.source import Format
from spanwright.data.write import Written, write_examples
from spanwright.entities import Example
from spanwright.errors import DataError
from spanwright.text.words import Split


def convert(
    source: Path,
    target: Path,
    *,
    to: str | None = None,
    split: Split | None = None,
    exclusive_ends: bool = False,
    skip_invalid: bool = False,
    progress: Callable[[int], object] | None = None,
) -> tuple[Written, list[Defect]]:
    """Write the examples of `source` to `target`. What was written comes back, and the defects that were left out.

    Raises:
        DataError: a file cannot be read or written, or `source` has an error and `skip_invalid` is not set; then
            nothing is written.
        ConfigError: the target's format is unknown.

    """
    skipped: list[Defect] = []

    def examples() -> Iterator[Example]:
        for record in read_records(source, split=split, exclusive_ends=exclusive_ends):
            for defect in record.defects:
                if defect.severity == "error" and not skip_invalid:
                    raise DataError(
                        f"{defect} `spanwright check {source}` lists all; `--skip-invalid` leaves them out."
                    )
                if defect.severity == "error" or defect.num_spans:
                    skipped.append(defect)
            if record.example is not None:
                yield record.example
            if progress is not None:
                progress(1)

    return write_examples(examples(), target, cast("Format | None", to)), skipped
