"""A file that is indexed gives what the same file gives when it is held."""

from __future__ import annotations

import json
import pickle
import random

import pytest
import torch

from spanwright import DataError, train
from spanwright.data import load_examples
from spanwright.data.batches import plan_batches
from spanwright.data.coverage import training_rows
from spanwright.data.indexed import Fit, IndexedExamples, IndexedRows, digest_of
from spanwright.data.labels import LabelSampler, inventories
from spanwright.text.windows import plan_windows
from spanwright.text.words import splitter
from spanwright.train_config import LabelOptions, LoopOptions
from spanwright.training.stream import MicroBatches, row_cost
from support.data import sentences, write_jsonl
from support.runs import CASES, differences, everything, without_curves
from support.tiny import tiny_extractor

SPLIT = splitter("whitespace")


def odd_file(path):
    """BOM, CRLF, blank lines, raw text beside words, long sentences, lines longer than a read, defects, no last LF."""
    rng = random.Random(1)
    rows = []
    for number in range(60):
        words = [rng.choice(["Ada", "went", "to", "Rome", "Zoë", "."]) for _ in range(rng.choice([3, 9, 40, 700]))]
        first = rng.randrange(len(words) - 2)
        spans = [[first, first + rng.randrange(2), rng.choice(["city", "person"])], [0, len(words) + number % 2, "x"]]
        rows.append(json.dumps({"tokenized_text": words, "ner": spans}, ensure_ascii=bool(number % 3)))
        if number % 7 == 0:
            rows.append(json.dumps({"text": "Ada met Bob .", "entities": [{"start": 0, "end": 3, "label": "person"}]}))
        if number % 9 == 0:
            rows += ["", "{broken", "   "]
    content = "\ufeff" + "\r\n".join(rows[:50]) + "\n" + "\n".join(rows[50:])
    path.write_bytes(content.encode())
    return path


def windows(example):
    return plan_windows([1] * len(example.words), max_words=30, max_cost=None, overlap=8)


def num_words(example):
    return len(example.words)


def at_most_thirty(cost, words):
    return words <= 30


FIT = Fit(windows, at_most_thirty, num_words, 4)


def indexed_file(path, **options):
    return IndexedExamples(path, split=SPLIT, cost_of=num_words, **options)


def test_it_gives_what_a_held_file_gives(tmp_path):
    path = odd_file(tmp_path / "train.jsonl")
    held = load_examples(path, split=SPLIT, skip_invalid=True)
    indexed = indexed_file(path, skip_invalid=True)
    assert len(indexed) == len(held.examples) > 60
    assert list(indexed) == list(held.examples)
    assert [indexed[place] for place in range(len(indexed))] == list(held.examples)
    assert indexed[3:6] == list(held.examples[3:6])
    assert [example.origin for example in indexed] == [example.origin for example in held.examples]
    assert indexed.inventories == inventories(held.examples)
    assert indexed.losses == held.skipped
    rows, coverage = training_rows(held.examples, windows, max_width=4)
    lazy = IndexedRows(indexed, FIT)
    assert lazy.coverage == coverage
    assert len(lazy) == len(rows) > len(held.examples)
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    assert all(lazy[place] == rows[place] for place in order)
    assert list(lazy.costs) == [len(row.words) for row in rows]
    assert indexed.digest == digest_of(indexed) == digest_of(held.examples)
    assert pickle.loads(pickle.dumps(lazy))[7] == rows[7]


def test_defects_are_refused_alike(tmp_path):
    path = odd_file(tmp_path / "train.jsonl")
    told = []
    for read in (lambda: load_examples(path, split=SPLIT), lambda: indexed_file(path)):
        with pytest.raises(DataError) as error:
            read()
        told.append(str(error.value))
    assert told[0] == told[1]
    assert "train.jsonl:1: `ner[1]` must end within" in told[0]


def test_a_file_that_changed_is_noticed(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", sentences())
    indexed = indexed_file(path)
    path.write_bytes(b"\n" * path.stat().st_size)
    with pytest.raises(DataError, match=r"train.jsonl:3: the line must be what it was at the start of the run"):
        indexed[2]


def test_batches_are_the_same_and_resume_in_the_middle(tmp_path):
    path = odd_file(tmp_path / "train.jsonl")
    extractor = tiny_extractor()
    rows, _ = training_rows(load_examples(path, skip_invalid=True).examples, windows, max_width=4)

    def cost(row):
        return row_cost(extractor.encoder, row)

    indexed = IndexedExamples(path, split=SPLIT, cost_of=cost, skip_invalid=True)
    lazy = IndexedRows(indexed, Fit(windows, at_most_thirty, cost, 4))
    sampler = LabelSampler(indexed.inventories, LabelOptions(), seed=0)
    held, read = (MicroBatches(r, extractor.encoder, sampler, LoopOptions(batch_size=4)) for r in (rows, lazy))
    assert held.epoch_length == read.epoch_length
    for k in (5 * held.epoch_length + 3, 0, held.epoch_length, 2):  # any k, in any order
        assert held[k].origins == read[k].origins
        assert torch.equal(held[k].batch.input_ids, read[k].batch.input_ids)
        assert torch.equal(held[k].targets.values, read[k].targets.values)


def test_a_plan_holds_every_row_once_in_the_order_of_its_seed():
    costs = [random.Random(1).randrange(1, 90) for _ in range(1000)]
    plan = plan_batches(costs, batch_size=4, max_tokens=120, seed=3, epoch=2)
    batches = list(plan)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    assert all(len(b) <= 4 and (len(b) == 1 or len(b) * max(costs[r] for r in b) <= 120) for b in batches)
    assert plan[2:4] == batches[2:4]
    assert list(plan_batches(costs, batch_size=4, max_tokens=120, seed=3, epoch=2)) == batches
    assert list(plan_batches(costs, batch_size=4, max_tokens=120, seed=4, epoch=2)) != batches


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_over_an_index_is_the_run_over_the_held_rows(tmp_path, monkeypatch, workers):
    without_curves(monkeypatch)
    path = write_jsonl(tmp_path / "train.jsonl", sentences())
    case = CASES["plain"]
    for name, options in (("held", {}), ("indexed", {"index_above": 0, "num_workers": workers})):
        train(case.extractor(), path, output=tmp_path / name, config=case.config(max_steps=12, **options))
    for step in ("state-000012",):
        assert not differences(everything(tmp_path / "held" / step), everything(tmp_path / "indexed" / step))
    begun = case.config(max_steps=14)  # an index may be exchanged for held rows when a run goes on
    train(case.extractor(), path, output=tmp_path / "indexed", config=begun, resume=True, accept_changes=True)
