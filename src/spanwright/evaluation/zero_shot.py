"""Zero-shot figures over a folder of data sets, in the protocol of the GLiNER paper, with their intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanwright.config import DEFAULT_THRESHOLD, DecodeOptions
from spanwright.data.labels import label_inventory
from spanwright.data.load import load_examples
from spanwright.entities import Example, Span
from spanwright.errors import DataError
from spanwright.evaluation.measure import Asked, predict
from spanwright.evaluation.metrics import Counts, Report, score
from spanwright.extractor import Extractor

_SLICE = 256  # examples between two calls of `progress`
_SPREAD = (2.5, 97.5)  # percentiles of an interval


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of a benchmark: its examples, and the labels that all of them are asked."""

    name: str
    examples: tuple[Example, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetResult:
    """How right a model is on one data set; interval: of micro F1, 95 %."""

    name: str
    labels: tuple[str, ...]
    report: Report
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """How right a model is on several data sets, each alone and in the mean; interval: of the mean, 95 %."""

    results: tuple[SetResult, ...]
    threshold: float
    interval: tuple[float, float]

    @property
    def mean_f1(self) -> float:
        """Mean of the sets' micro F1."""
        return sum(result.report.micro.f1 for result in self.results) / len(self.results)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "threshold": self.threshold,
            "mean_f1": self.mean_f1,
            "interval": list(self.interval),
            "sets": [
                {
                    "name": result.name,
                    "labels": list(result.labels),
                    "interval": list(result.interval),
                    **result.report.to_dict(),
                }
                for result in self.results
            ],
        }


def read_sets(folder: Path, *, split: str = "test") -> list[DataSet]:
    """The data sets in a folder: each a folder of its own with ``test.jsonl`` (or another `split`), in names' order.

    All examples of a set are asked the same labels: the list in its ``labels.json``, else all that occur in its files.

    Raises:
        DataError: there is no such data set, or a file is defective.

    """
    sets = []
    for path in sorted(folder.glob(f"*/{split}.jsonl")):
        named = path.with_name("labels.json")
        if named.is_file():
            labels = _listed(named)
        else:
            splits = (load_examples(file).examples for file in sorted(path.parent.glob("*.jsonl")))
            labels = label_inventory([example for examples in splits for example in examples])
        sets.append(DataSet(path.parent.name, load_examples(path).examples, tuple(labels)))
    if not sets:
        raise DataError(f"{folder} must hold data sets as NAME/{split}.jsonl, but holds none.")
    return sets


def zero_shot(
    extractor: Extractor,
    sets: Sequence[DataSet],
    *,
    threshold: float = DEFAULT_THRESHOLD,
    draws: int = 1000,
    progress: Callable[[int], object] | None = None,
) -> ZeroShot:
    """Micro F1 of each set by exact match of bounds and label: every sentence asked all labels of its set, flat.

    Gold of a label that the set does not list counts as missed, as in GLiNER's own evaluation. Intervals are
    percentiles of the F1 of `draws` sets of sentences drawn with replacement (Efron, 1979). `progress` is called with
    how many sentences were done since the last call.
    """
    rng = np.random.default_rng(0)
    options = DecodeOptions(threshold=threshold)
    results: list[SetResult] = []
    drawn: list[np.ndarray] = []
    for each in sets:
        found: list[list[Span]] = []
        for start in range(0, len(each.examples), _SLICE):
            part = each.examples[start : start + _SLICE]
            found += [answer.spans for answer in predict(extractor, part, Asked(each.labels), options)]
            if progress is not None:
                progress(len(part))
        gold = [example.spans for example in each.examples]
        drawn.append(bootstrap(_per_sentence(gold, found), draws, rng))
        results.append(SetResult(each.name, each.labels, score(gold, found, each.labels), _interval(drawn[-1])))
    return ZeroShot(tuple(results), threshold, _interval(np.mean(drawn, axis=0)))


def bootstrap(counts: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Micro F1 of `draws` samples of sentences; counts (N, 3): right, found, gold of each."""
    f1 = np.empty(draws)
    for draw in range(draws):
        right, found, gold = counts[rng.integers(len(counts), size=len(counts))].sum(axis=0)
        f1[draw] = Counts(int(right), int(found), int(gold)).f1
    return f1


def _per_sentence(gold: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]]) -> np.ndarray:
    pairs = [(set(there), set(seen)) for there, seen in zip(gold, found, strict=True)]
    return np.array([(len(there & seen), len(seen), len(there)) for there, seen in pairs])


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, _SPREAD) if len(values) else (0.0, 0.0)
    return float(low), float(high)


def _listed(path: Path) -> list[str]:
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be a JSON list of labels, but cannot be read as one: {error}") from None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{path} must be a JSON list of labels, but holds something else.")
    return labels
