import random
import time

from hypothesis import given
from hypothesis import strategies as st

from spanwright.config import DecodeOptions
from spanwright.decoding import resolve
from spanwright.entities import ScoredSpan

# the example that the published behaviour was recorded with, ends made half-open
A, B = "A", "B"
CANDIDATES = [
    ScoredSpan(0, 2, A, 0.881),
    ScoredSpan(0, 2, B, 0.731),
    ScoredSpan(1, 2, A, 0.818),
    ScoredSpan(1, 4, B, 0.858),
]


def bounds(spans):
    return [(span.start, span.end, span.label) for span in spans]


def test_the_four_ways_by_hand():
    assert bounds(resolve(CANDIDATES, DecodeOptions())) == [(0, 2, A)]
    assert bounds(resolve(CANDIDATES, DecodeOptions(multi_label=True))) == [(0, 2, A), (0, 2, B)]
    assert bounds(resolve(CANDIDATES, DecodeOptions(overlap="nested"))) == [(0, 2, A), (1, 2, A)]
    assert bounds(resolve(CANDIDATES, DecodeOptions(overlap="nested", multi_label=True))) == [
        (0, 2, A),
        (0, 2, B),
        (1, 2, A),
    ]


def test_among_equals_the_earlier_candidate_stays():
    tied = [ScoredSpan(0, 1, A, 0.6), ScoredSpan(0, 1, B, 0.6), ScoredSpan(0, 2, A, 0.6)]
    assert resolve(tied, DecodeOptions()) == tied[:1]


def test_the_same_span_and_label_twice_stays_once():
    twice = [ScoredSpan(0, 1, A, 0.6), ScoredSpan(0, 1, A, 0.7)]
    assert resolve(twice, DecodeOptions(multi_label=True)) == twice[1:]


def oracle(candidates, options):
    """The rule as it is written down, asking every kept span."""
    kept = []
    for span in sorted(candidates, key=lambda span: -span.score):
        for other in kept:
            same = (span.start, span.end) == (other.start, other.end)
            overlap = span.start < other.end and other.start < span.end
            within = (other.start <= span.start and span.end <= other.end) or (
                span.start <= other.start and other.end <= span.end
            )
            if same:
                conflict = not options.multi_label or span.label == other.label
            elif options.overlap == "flat":
                conflict = overlap
            else:
                conflict = overlap and not within
            if conflict:
                break
        else:
            kept.append(span)
    return sorted(kept, key=lambda span: span.start)


spans = st.builds(
    lambda start, width, label, score: ScoredSpan(start, start + width, label, score / 4),
    st.integers(0, 12),
    st.integers(1, 5),
    st.sampled_from("ABC"),
    st.integers(1, 3),
)


@given(
    candidates=st.lists(spans, max_size=25),
    options=st.builds(DecodeOptions, overlap=st.sampled_from(["flat", "nested"]), multi_label=st.booleans()),
)
def test_equals_the_rule_as_it_is_written_down(candidates, options):
    assert resolve(candidates, options) == oracle(candidates, options)


def test_many_candidates_cost_little_more_than_their_sorting():
    rng = random.Random(0)
    many = [
        ScoredSpan(s, s + rng.randint(1, 12), rng.choice("ABCDE"), rng.random()) for s in range(12_000) for _ in "12345"
    ]
    for overlap in ("flat", "nested"):
        before = time.process_time()
        resolve(many, DecodeOptions(overlap=overlap, multi_label=True))
        assert time.process_time() - before < 5  # asking every kept span takes minutes
