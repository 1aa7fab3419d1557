import json

import numpy as np
import pytest

from spanwright import DataError, Span
from spanwright.evaluation import zero_shot as module
from spanwright.evaluation.measure import Answer
from spanwright.evaluation.zero_shot import bootstrap, read_sets, zero_shot

ROWS = [
    {"tokenized_text": ["Ada", "went", "to", "Rome"], "ner": [[0, 0, "person"], [3, 3, "city"]]},
    {"tokenized_text": ["Rome", "fell"], "ner": [[0, 0, "city"]]},
]


def put(folder, name, rows, labels=None, split="test"):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if labels is not None:
        (folder / name / "labels.json").write_text(json.dumps(labels))


def test_sets_ask_their_list_or_all_labels_of_their_files(tmp_path):
    put(tmp_path, "b", ROWS)
    put(tmp_path, "b", [{"tokenized_text": ["2020"], "ner": [[0, 0, "year"]]}], split="train")
    put(tmp_path, "a", ROWS, ["city", "else"])
    first, second = read_sets(tmp_path)
    assert (first.name, first.labels, len(first.examples)) == ("a", ("city", "else"), 2)
    assert second.labels == ("city", "person", "year")
    assert [each.name for each in read_sets(tmp_path, split="train")] == ["b"]


def test_what_is_no_set_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"must hold data sets as NAME/test.jsonl, but holds none"):
        read_sets(tmp_path)
    put(tmp_path, "a", ROWS, {"city": 1})
    with pytest.raises(DataError, match="must be a JSON list of labels, but holds something else"):
        read_sets(tmp_path)
    (tmp_path / "a" / "labels.json").write_text("[")
    with pytest.raises(DataError, match="cannot be read as one"):
        read_sets(tmp_path)


def test_figures_by_hand(tmp_path, monkeypatch):
    put(tmp_path, "a", ROWS, ["city"])  # "person" is not asked, and counts as missed
    put(tmp_path, "b", ROWS[1:])
    asked = []

    def answers(extractor, examples, question, options):
        asked.append((question.labels, options.threshold, options.overlap))
        return [Answer([Span(0, 1, "city")], []) for _ in examples]

    monkeypatch.setattr(module, "predict", answers)
    done = []
    result = zero_shot(None, read_sets(tmp_path), threshold=0.4, draws=200, progress=done.append)
    assert asked == [(("city",), 0.4, "flat")] * 2
    assert done == [2, 1]
    first, second = (each.report.micro for each in result.results)
    assert (first.true_positives, first.num_predicted, first.num_gold) == (1, 2, 3)
    assert first.f1 == pytest.approx(2 / 5)
    assert second.f1 == 1.0
    assert result.mean_f1 == pytest.approx(0.7)
    assert result.results[1].interval == (1.0, 1.0)
    low, high = result.results[0].interval
    assert (low, high) == (0.0, 1.0)  # both rows the first, or both the second, in a quarter of the draws each
    assert result.interval == (0.5, 1.0)
    assert result.to_dict()["sets"][0]["per_label"]["person"]["num_gold"] == 1


def test_an_interval_narrows_with_the_root_of_the_sentences():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, size=1600)
    widths = []
    for size in (100, 1600):
        counts = np.stack([right[:size], np.ones(size, int), np.ones(size, int)], axis=1)
        f1 = bootstrap(counts, 800, np.random.default_rng(1))
        widths.append(np.percentile(f1, 97.5) - np.percentile(f1, 2.5))
    assert widths[0] == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.15)  # F1 is the share that is right here: binomial
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.15)
