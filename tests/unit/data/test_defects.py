"""Seeded defects: each is reported, at its line, under its code, and nothing else is."""

from __future__ import annotations

import pytest

from spanwright.data.check import check
from support.defects import FORMATS, KINDS, clean, written

NUM = 9
POSITIONS = (0, 1, NUM // 2, NUM - 2, NUM - 1)
SUFFIX = {"gliner": "jsonl", "text": "jsonl", "conll": "conll"}


@pytest.mark.parametrize("form", FORMATS)
def test_clean_files_have_no_defects(form, tmp_path):
    path = tmp_path / f"clean.{SUFFIX[form]}"
    path.write_bytes(b"".join(written(form, clean(form, number)) for number in range(NUM)))
    report = check([path], max_width=12)
    assert report.defects == []
    assert report.files[0].num_spans == 3 * NUM


@pytest.mark.parametrize("form", FORMATS)
def test_there_are_forty_kinds_and_they_differ(form):
    assert len(KINDS[form]) >= 40
    assert len({kind.name for kind in KINDS[form]}) == len(KINDS[form])
    assert len({kind.make(clean(form, 0)) for kind in KINDS[form]}) == len(KINDS[form])


@pytest.mark.parametrize(
    ("form", "kind"), [(form, kind) for form in FORMATS for kind in KINDS[form]], ids=lambda v: getattr(v, "name", v)
)
def test_a_defect_is_reported_exactly(form, kind, tmp_path):
    path = tmp_path / f"data.{SUFFIX[form]}"
    for position in POSITIONS:
        records = [written(form, clean(form, number)) for number in range(NUM)]
        records[position] = kind.make(clean(form, position))
        path.write_bytes(b"".join(records))
        line = sum(record.count(b"\n") for record in records[:position]) + 1 + kind.line
        report = check([path], max_width=12)
        found = {(defect.place, defect.code) for defect in report.defects}
        assert found == {(f"{path}:{line}", kind.code)}, position
        if kind.field:
            assert {defect.field for defect in report.defects} == {kind.field}
        assert report.files[0].num_examples >= NUM - 1


def test_a_defect_across_records(tmp_path):
    """A sentence that stands twice is found at its second place."""
    for form in FORMATS:
        path = tmp_path / f"{form}.{SUFFIX[form]}"
        for position in POSITIONS[1:]:
            records = [written(form, clean(form, number)) for number in range(NUM)]
            records[position] = records[0]
            path.write_bytes(b"".join(records))
            line = sum(record.count(b"\n") for record in records[:position]) + 1
            found = {(defect.place, defect.code) for defect in check([path]).defects}
            assert found == {(f"{path}:{line}", "repeated-sentence")}
