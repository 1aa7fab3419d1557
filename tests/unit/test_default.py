"""The model that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import spanwright
from spanwright import DecodeOptions, Extractor
from spanwright.checkpoint import local_folder

TEXT = "In 1998 Larry Page and Sergey Brin founded Google in Menlo Park."
FOUND = [
    ("1998", "year"),
    ("Larry Page", "person"),
    ("Sergey Brin", "person"),
    ("Google", "company"),
    ("Menlo Park", "city"),
]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor.default(device="cpu")


def test_it_finds_entities_of_any_label_offline(extractor):
    found = extractor.extract(TEXT, ["person", "company", "city", "year", "drug"])
    assert [(entity.text, entity.label) for entity in found] == FOUND
    other = extractor.extract("500 mg of paracetamol twice a day", ["drug", "dose"], DecodeOptions(threshold=0.3))
    assert ("paracetamol", "drug") in [(entity.text, entity.label) for entity in other]


def test_it_is_small_and_says_what_it_is():
    folder = local_folder("default")
    assert folder.is_relative_to(Path(spanwright.__file__).parent)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert (folder / "NOTICE").is_file()


def test_what_its_vocabulary_lacks_still_has_a_place(extractor):
    text = "Владимир met Ada Lovelace in 東京."
    found = extractor.extract(text, ["person"], DecodeOptions(threshold=0.3))
    assert "Ada Lovelace" in [entity.text for entity in found]
    assert all(text[entity.start : entity.end] == entity.text for entity in found)


def test_a_folder_of_that_name_is_another(extractor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert local_folder("default") != tmp_path / "default"
    assert local_folder("./default") == Path("default")
