"""Fit what a package says of its scores, on data that is not trained on, and write it into its configuration.

    python recipes/thresholds.py MODEL --dev DIR --data DIR

Thresholds by family of labels (a label belongs to the family of its last word), chosen on a grid for the mean F1 of the
data sets, one family after the other until nothing gains; and a calibration, slope and shift of a score's logit (Platt,
1999). Printed beside: the F1 of each set under thresholds that were fitted on all others, and the expected calibration
error (ten bins) on the half of the sentences that the calibration was not fitted on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mini import OWN, asked_of, rows

from spanwright import DecodeOptions, Extractor, SpanwrightError
from spanwright.config import OwnThresholds
from spanwright.data.load import load_examples
from spanwright.decoding import resolve
from spanwright.encoding import Row
from spanwright.entities import Example, ScoredSpan
from spanwright.evaluation.metrics import Counts
from spanwright.evaluation.zero_shot import read_sets

FAMILIES = {
    "person": """person people human name author writer poet novelist politician scientist researcher artist musician
        singer player athlete actor director composer physicist chemist biologist engineer judge speaker editor producer
        designer painter photographer leader president minister king queen officer character owner recipient patient
        employee employer explorer teacher student coach lawyer philosopher historian journalist""",
    "organization": """organization organisation company corporation firm agency institution institute university
        college school party band group team club publisher department court museum library newspaper manufacturer
        airline league business brand association union bank hospital ministry government army committee label""",
    "place": """location place country city town village state region area island river address street district county
        province continent mountain lake sea airport port station building castle settlement destination venue""",
    "work": """work book song album poem film movie title journal magazine novel play game show series painting dataset
        software app website program product law treaty document opera symphony article""",
    "event": "event election conference battle war award prize festival competition tournament holiday mission",
    "quantity": """date year time day month week decade number quantity amount price cost money age duration percentage
        size measurement value rate range limit unit weight speed distance temperature volume concentration frequency
        dosage dose count score rating""",
    "term": """genre field discipline method algorithm task theory technique metric metrics measure skill knowledge
        problem topic theme language concept process procedure system operation feature property parameter variable""",
    "matter": """material chemical compound substance protein gene enzyme drug medication disease disorder symptom
        condition treatment species organism animal plant cell cancer syndrome ingredient food dish element reagent
        mineral hormone antibiotic virus bacterium instrument device tool vehicle part""",
}
GRID = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)
LEAST = 0.1  # scores below are of nobody's concern
_KNOWN: dict[tuple[object, ...], float] = {}  # F1 of a set of sentences under thresholds


@dataclass(frozen=True)
class Answered:
    """A sentence: its gold spans, and everything that the model thinks possible, best first."""

    gold: frozenset[tuple[int, int, str]]
    found: tuple[ScoredSpan, ...]


def answers(extractor: Extractor, examples: Sequence[Example], labels: tuple[str, ...] | None) -> list[Answered]:
    """All that scores above `LEAST`; each example is asked `labels`, or its own."""
    asked = [labels if labels is not None else example.labels or () for example in examples]
    options = DecodeOptions(threshold=LEAST, overlap="nested", multi_label=True)
    found = extractor.find_spans(
        [Row(tuple(example.word_texts), names) for example, names in zip(examples, asked, strict=True)], options
    )
    return [
        Answered(
            frozenset((span.start, span.end, span.label) for span in example.spans),
            tuple(sorted(spans, key=lambda span: -span.score)),
        )
        for example, spans in zip(examples, found, strict=True)
    ]


def flat(found: Iterable[ScoredSpan], threshold: Callable[[str], float]) -> list[ScoredSpan]:
    """Those that stay where no two share a word, the better ones first."""
    return resolve([span for span in found if span.score > threshold(span.label)], DecodeOptions())


def f1(sentences: Sequence[Answered], thresholds: Mapping[str, float]) -> float:
    """Micro F1 in percent, remembered: the same thresholds come again in each fit."""
    key = (id(sentences), *thresholds.items())
    if key not in _KNOWN:
        _KNOWN[key] = _f1(sentences, thresholds)
    return _KNOWN[key]


def _f1(sentences: Sequence[Answered], thresholds: Mapping[str, float]) -> float:
    right = found = gold = 0
    for sentence in sentences:
        kept = {(s.start, s.end, s.label) for s in flat(sentence.found, lambda label: thresholds.get(label, 0.5))}
        right, found, gold = right + len(kept & sentence.gold), found + len(kept), gold + len(sentence.gold)
    return 100 * Counts(right, found, gold).f1


def by_label(of_family: Mapping[str, float]) -> OwnThresholds:
    """Thresholds of all words of the families; 0.5 is left out."""
    return OwnThresholds(
        {word: of_family[name] for name, words in FAMILIES.items() if of_family[name] != 0.5 for word in words.split()}
    )


def fitted(sets: Sequence[Sequence[Answered]]) -> dict[str, float]:
    """The threshold of each family, for the mean F1 of the sets."""
    chosen = dict.fromkeys(FAMILIES, 0.5)
    best = sum(f1(each, by_label(chosen)) for each in sets)
    gained = True
    while gained:
        gained = False
        for name in FAMILIES:
            for value in GRID:
                tried = {**chosen, name: value}
                mean = sum(f1(each, by_label(tried)) for each in sets)
                if mean > best + 1e-6:
                    best, chosen, gained = mean, tried, True
    return chosen


def scored(sentences: Sequence[Answered]) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores of what is found flat above `LEAST`, and whether each is right."""
    pairs = [
        (span.score, (span.start, span.end, span.label) in sentence.gold)
        for sentence in sentences
        for span in flat(sentence.found, lambda _: LEAST)
    ]
    table = torch.tensor(pairs, dtype=torch.float64)
    return table[:, 0], table[:, 1]


def platt(scores: torch.Tensor, right: torch.Tensor) -> tuple[float, float]:
    """Slope and shift of the logit, by least cross-entropy."""
    logits = torch.logit(scores, 1e-6)
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(line[0] * logits + line[1], right)
        value.backward()
        return value

    search.step(loss)
    slope, shift = line.detach().tolist()
    return round(slope, 3), round(shift, 3)


def calibration_error(probabilities: torch.Tensor, right: torch.Tensor) -> float:
    """Mean distance of confidence and share of right ones over ten bins (Guo et al., 2017)."""
    bins = (probabilities * 10).long().clamp(max=9)
    distance = torch.zeros(10, dtype=torch.float64).index_add_(0, bins, probabilities - right).abs()
    return float(distance.sum() / len(right))


def calibrated(scores: torch.Tensor, line: tuple[float, float]) -> torch.Tensor:
    return torch.sigmoid(line[0] * torch.logit(scores, 1e-6) + line[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a package's folder; its gliner_config.json is written anew")
    parser.add_argument("--dev", type=Path, required=True, help="folder of data sets, of which NAME/dev.jsonl is read")
    parser.add_argument("--data", type=Path, required=True, help="folder with *_dev.jsonl.xz")
    options = parser.parse_args()
    extractor = Extractor.from_pretrained(options.model)
    path = options.model / "gliner_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    sets = {each.name: answers(extractor, each.examples, each.labels) for each in read_sets(options.dev, split="dev")}
    with tempfile.TemporaryDirectory() as temporary:
        for held_out in sorted([*options.data.glob("*_dev.jsonl.xz"), *OWN.glob("*_dev.jsonl.xz")]):
            plain = Path(temporary) / held_out.name.removesuffix(".xz")
            plain.write_text("".join(json.dumps(asked_of(row)) + "\n" for row in rows(held_out)), encoding="utf-8")
            sets[held_out.name.removesuffix("_dev.jsonl.xz")] = answers(extractor, load_examples(plain).examples, None)

    chosen = fitted(list(sets.values()))
    print("thresholds", chosen)
    print(f"{'set':24}{'at 0.5':>8}{'fitted':>8}{'fitted on the others':>24}")
    gains = []
    for name, sentences in sets.items():
        others = by_label(fitted([each for other, each in sets.items() if other != name]))
        before, after, fair = f1(sentences, {}), f1(sentences, by_label(chosen)), f1(sentences, others)
        gains.append((before, after, fair))
        print(f"{name:24}{before:8.1f}{after:8.1f}{fair:24.1f}")
    before, after, fair = (sum(column) / len(gains) for column in zip(*gains, strict=True))
    print(f"{'mean':24}{before:8.2f}{after:8.2f}{fair:24.2f}")

    halves = [[s for each in sets.values() for s in each[first::2]] for first in (0, 1)]
    scores, right = scored(halves[1])
    line = platt(*scored(halves[0]))
    print(
        f"calibration error on the other half: {calibration_error(scores, right):.3f} as scored, "
        f"{calibration_error(calibrated(scores, line), right):.3f} calibrated"
    )
    line = platt(*scored(halves[0] + halves[1]))
    for score in (0.3, 0.5, 0.7, 0.9):
        print(f"a score of {score}: right {float(calibrated(torch.tensor(score, dtype=torch.float64), line)):.0%}")

    config |= {"spanwright_thresholds": dict(by_label(chosen)), "spanwright_calibration": list(line)}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except SpanwrightError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
