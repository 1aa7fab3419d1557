"""A file of ten million lines: bounded memory, and a run that goes on in the middle of it. By `make large` only."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from support.runs import differences, everything
from support.saving import train_arguments

LINES = int(os.environ.get("SPANWRIGHT_LARGE_LINES", "0"))
BYTES_PER_LINE = 60  # of memory, at most, beside what a run over a small file takes


def write(path: Path, num_lines: int) -> None:
    people, places = ("Ada", "Bob", "Cleo", "Dan"), ("Rome", "Oslo", "Lima")
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_lines):
            words = [people[number % 4], "went", "to", places[number % 3], str(number % 4999), *["."] * (number % 3)]
            quoted = ", ".join(f'"{word}"' for word in words)
            file.write(f'{{"tokenized_text": [{quoted}], "ner": [[0, 0, "person"], [3, 3, "city"]]}}\n')


def life(nursery, place, data: Path, output: Path, log: Path) -> tuple[float, float]:
    """Train 30 steps, saving at 15 and 30; (seconds, peak MiB)."""
    arguments = train_arguments(str(place), str(output), 30)
    arguments[arguments.index("--train") + 1] = str(data)
    arguments += ["--set", "training.save_every=15", "--set", "training.num_workers=2"]
    arguments += ["--set", "training.index_above=1", "--resume"]
    started = time.monotonic()
    child = nursery.start("support.saving:command_line_with_peak", *arguments, log=log)
    assert child.wait(24 * 3600) == 0, child.told
    peak = re.search(r"peak (\d+) KiB", child.told)
    assert peak, child.told
    return time.monotonic() - started, int(peak[1]) / 1024


@pytest.mark.skipif(not LINES, reason="by `make large`: takes most of an hour")
def test_a_large_file_in_bounded_memory(nursery, place, tmp_path, account):
    data = tmp_path / "train.jsonl"
    write(data, LINES)
    _, small = life(nursery, place, place / "train.jsonl", tmp_path / "small", tmp_path / "log-0")
    seconds, peak = life(nursery, place, data, tmp_path / "whole", tmp_path / "log-1")
    shutil.copytree(tmp_path / "whole", tmp_path / "again", ignore=shutil.ignore_patterns("state-000030"))
    seconds_again, _ = life(nursery, place, data, tmp_path / "again", tmp_path / "log-2")
    one, other = (everything(tmp_path / run / "state-000030") for run in ("whole", "again"))
    account(
        "a large file",
        lines=LINES,
        file_mib=round(data.stat().st_size / 2**20),
        seconds=round(seconds),
        seconds_resumed=round(seconds_again),
        peak_mib=round(peak),
        peak_mib_of_8_lines=round(small),
    )
    assert not differences(one, other)
    assert peak - small < BYTES_PER_LINE * LINES / 2**20 + 50
