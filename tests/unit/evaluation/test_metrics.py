import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanwright.entities import Span, SpanRelation
from spanwright.evaluation.metrics import Counts, ErrorCounts, score, score_relations

A, B = "A", "B"


def test_counts_by_hand():
    gold = [[Span(0, 1, A), Span(2, 4, B), Span(5, 6, A)], [Span(0, 2, B)]]
    found = [[Span(0, 1, A), Span(2, 3, B), Span(5, 6, B)], []]
    report = score(gold, found)
    assert report.micro == Counts(true_positives=1, num_predicted=3, num_gold=4)
    assert report.micro.precision == pytest.approx(1 / 3)
    assert report.micro.recall == pytest.approx(1 / 4)
    assert report.micro.f1 == pytest.approx(2 / 7)
    assert report.per_label == {A: Counts(1, 1, 2), B: Counts(0, 2, 2)}
    assert report.macro_f1 == pytest.approx((2 / 3 + 0) / 2)
    assert report.errors == ErrorCounts(label=1, boundary=1, missing=1)


def test_kinds_of_error_by_hand():
    gold = [[Span(0, 2, A), Span(4, 6, A), Span(8, 9, B), Span(11, 12, A)]]
    found = [[Span(0, 2, B), Span(5, 7, A), Span(8, 10, A), Span(14, 15, A)]]
    expected = ErrorCounts(label=1, boundary=1, boundary_and_label=1, missing=1, spurious=1)
    assert score(gold, found).errors == expected


def test_nothing_at_all_is_zero_and_no_error():
    report = score([[]], [[]])
    assert report.micro == Counts()
    assert (report.micro.precision, report.micro.recall, report.micro.f1, report.macro_f1) == (0, 0, 0, 0)


def test_labels_that_never_occur_are_listed_but_not_averaged():
    report = score([[Span(0, 1, A)]], [[Span(0, 1, A)]], [B, A])
    assert list(report.per_label) == [B, A]
    assert report.macro_f1 == 1.0


def test_macro_is_the_mean_of_the_labels_that_occur_in_gold():
    report = score([[Span(0, 1, A), Span(2, 3, B)]], [[Span(0, 1, A), Span(4, 5, "C")]])
    assert (report.macro_precision, report.macro_recall, report.macro_f1) == (0.5, 0.5, 0.5)
    assert report.per_label["C"] == Counts(0, 1, 0)


def test_a_span_given_twice_counts_once():
    assert score([[Span(0, 1, A)] * 2], [[Span(0, 1, A)] * 3]).micro == Counts(1, 1, 1)


def test_the_better_kind_of_pair_is_made_first_and_then_the_left_one():
    gold = [[Span(0, 2, A), Span(2, 4, A), Span(5, 6, B)]]
    found = [[Span(1, 3, A), Span(1, 3, B), Span(5, 6, A)]]
    # (1, 3, A) meant the left of the two A that it overlaps, (1, 3, B) the one left over
    assert score(gold, found).errors == ErrorCounts(label=1, boundary=1, boundary_and_label=1)


def test_a_report_as_a_dictionary_is_json():
    value = score([[Span(0, 1, A), Span(3, 4, A)]], [[Span(0, 1, A), Span(8, 9, B)]]).to_dict()
    assert json.loads(json.dumps(value)) == value
    half = {"true_positives": 1, "num_predicted": 2, "num_gold": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert value["micro"] == half
    assert value["macro"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert value["errors"] == {"label": 0, "boundary": 0, "boundary_and_label": 0, "missing": 1, "spurious": 1}
    assert list(value["per_label"]) == [A, B]
    assert value["num_examples"] == 1


def test_both_sides_must_have_as_many_examples():
    with pytest.raises(ValueError, match="must have 2 examples"):
        score([[], []], [[]])


any_spans = st.lists(
    st.builds(lambda s, w, label: Span(s, s + w, label), st.integers(0, 8), st.integers(1, 3), st.sampled_from("ABC")),
    max_size=8,
)


@given(st.lists(st.tuples(any_spans, any_spans), max_size=5), st.randoms())
def test_laws(examples, rng):
    gold, found = [g for g, _ in examples], [p for _, p in examples]
    report = score(gold, found)
    errors = report.errors
    paired = errors.label + errors.boundary + errors.boundary_and_label
    assert report.micro.num_gold - report.micro.true_positives == paired + errors.missing
    assert report.micro.num_predicted - report.micro.true_positives == paired + errors.spurious
    shuffled = [(rng.sample(g, len(g)), rng.sample(p, len(p))) for g, p in examples]
    rng.shuffle(shuffled)
    assert score([g for g, _ in shuffled], [p for _, p in shuffled]) == report


def flat(spans):
    kept = []
    for span in sorted(set(spans), key=lambda s: (s.start, s.end, s.label)):
        if not kept or kept[-1].end <= span.start:
            kept.append(span)
    return kept


@given(st.lists(st.tuples(any_spans.map(flat), any_spans.map(flat)), min_size=1, max_size=6))
def test_agrees_with_nervaluate_strict(examples):
    from nervaluate import Evaluator

    def spelled(spans):
        return [{"label": s.label, "start": s.start, "end": s.end - 1} for s in spans]  # its ends are inclusive

    gold, found = [g for g, _ in examples], [p for _, p in examples]
    labels = sorted({s.label for spans in (*gold, *found) for s in spans})
    if not any(gold) or not labels:
        return
    theirs = Evaluator([spelled(g) for g in gold], [spelled(p) for p in found], tags=labels, loader="dict").evaluate()
    report = score(gold, found)
    strict = theirs["overall"]["strict"]
    assert strict.correct == report.micro.true_positives
    assert strict.precision == pytest.approx(report.micro.precision)
    assert strict.recall == pytest.approx(report.micro.recall)
    assert strict.f1 == pytest.approx(report.micro.f1)
    for label in labels:
        strict, own = theirs["entities"][label]["strict"], report.per_label[label]
        assert (strict.correct, strict.actual, strict.possible) == (own.true_positives, own.num_predicted, own.num_gold)
        assert (strict.precision, strict.recall, strict.f1) == pytest.approx((own.precision, own.recall, own.f1))


def overlap(one, other):
    return max(one.start, other.start) < min(one.end, other.end)


def pairs_by_hand(gold, found):
    """The kinds of error, asking every pair of spans."""
    missed, wrong = sorted(set(gold) - set(found), key=place), sorted(set(found) - set(gold), key=place)
    counts = []
    for belong in (
        lambda g, p: (g.start, g.end) == (p.start, p.end),
        lambda g, p: overlap(g, p) and g.label == p.label,
        overlap,
    ):
        counts.append(0)
        for prediction in list(wrong):
            meant = [span for span in missed if belong(span, prediction)]
            if meant:
                counts[-1] += 1
                missed.remove(meant[0])
                wrong.remove(prediction)
    return ErrorCounts(*counts, missing=len(missed), spurious=len(wrong))


def place(span):
    return span.start, span.end, span.label


@given(any_spans, any_spans)
def test_kinds_of_error_equal_asking_every_pair(gold, found):
    assert score([gold], [found]).errors == pairs_by_hand(gold, found)


def test_relations_by_hand():
    """Two of three right by bounds and label; of these, one has another label for its tail."""
    ada, bob, rome = Span(0, 1, "person"), Span(2, 3, "person"), Span(4, 5, "city")
    place = Span(4, 5, "place")
    gold = [[SpanRelation(ada, bob, "met"), SpanRelation(ada, rome, "in")], [SpanRelation(bob, ada, "met")]]
    found = [[SpanRelation(ada, bob, "met"), SpanRelation(ada, place, "in"), SpanRelation(bob, ada, "met")], []]
    report = score_relations(gold, found)
    assert report.micro == Counts(2, 3, 3)
    assert report.strict == Counts(1, 3, 3)
    assert report.per_label == {"in": Counts(1, 1, 1), "met": Counts(1, 2, 2)}
    assert list(score_relations(gold, found, ["owns", "met"]).per_label) == ["owns", "met", "in"]
    assert report.to_dict()["strict"]["f1"] == pytest.approx(1 / 3)
    whole = score([[ada]], [[ada]])
    assert (whole.headline_f1, replace(whole, relations=report).headline_f1) == (1.0, pytest.approx((1 + 2 / 3) / 2))
    with pytest.raises(ValueError, match="must have 2 examples"):
        score_relations(gold, found[:1])
