"""The README and the guide run: each page's blocks in order, in a folder with a small model and data."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from spanwright.cli import main
from support.data import sentences, write_jsonl
from support.tiny import tiny_extractor

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<body>.*?)```", re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_extractor().save(tmp_path / "runs" / "politics")
    tiny_extractor(adjacency="mlp").save(tmp_path / "runs" / "relations")
    write_jsonl(tmp_path / "train.jsonl", sentences())
    write_jsonl(tmp_path / "dev.jsonl", sentences(4))
    write_jsonl(tmp_path / "test.jsonl", sentences(4))
    (tmp_path / "texts.txt").write_text("Ada went to Rome.\n")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(page, place, monkeypatch):
    names: dict[str, object] = {"__name__": page.stem}
    ran = 0
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["file"]:
            (place / block["file"]).write_text(block["body"], encoding="utf-8")
        if block["kind"] == "python":
            exec(compile(block["body"], f"{page.name}", "exec"), names)
            ran += 1
        for line in block["body"].splitlines() if block["kind"] == "console" else []:
            assert line.startswith("$ spanwright ")
            monkeypatch.setattr(sys, "argv", shlex.split(line[2:]))
            with pytest.raises(SystemExit) as stop:
                main()
            assert stop.value.code in (0, None), line
            ran += 1
    assert ran


def test_every_link_leads_somewhere():
    for page in [*PAGES, ROOT / "docs" / "design.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
