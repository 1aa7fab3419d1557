from hypothesis import given
from hypothesis import strategies as st

from spanwright.text.windows import Window, plan_windows


def test_what_fits_is_one_window():
    assert plan_windows([1] * 5, max_words=5, max_cost=None, overlap=2) == (Window(0, 5, 0, 5),)


def test_no_words_no_windows():
    assert plan_windows([], max_words=5, max_cost=9, overlap=2) == ()


def test_windows_by_hand():
    # ten words, four to a window, two shared: [0,4) [2,6) [4,8) [6,10), each seam cut in the middle of what is shared
    assert plan_windows([1] * 10, max_words=4, max_cost=None, overlap=2) == (
        Window(0, 4, 0, 3),
        Window(2, 6, 3, 5),
        Window(4, 8, 5, 7),
        Window(6, 10, 7, 10),
    )


def test_a_word_that_costs_too_much_stands_alone():
    windows = plan_windows([1, 1, 50, 1, 1], max_words=9, max_cost=4, overlap=2)
    assert Window(2, 3, 2, 3) in windows


@given(
    costs=st.lists(st.integers(1, 9), max_size=80),
    max_words=st.integers(1, 20),
    max_cost=st.one_of(st.none(), st.integers(1, 60)),
    share=st.floats(0, 0.5),
)
def test_the_laws_of_windows(costs, max_words, max_cost, share):
    overlap = int(max_words * share)
    windows = plan_windows(costs, max_words=max_words, max_cost=max_cost, overlap=overlap)
    owned = [place for window in windows for place in range(window.own_start, window.own_end)]
    assert owned == list(range(len(costs)))  # the own parts partition the words
    for window in windows:
        assert window.start <= window.own_start < window.own_end <= window.end
        assert window.end - window.start <= max_words
        assert max_cost is None or sum(costs[window.start : window.end]) <= max_cost or window.end - window.start == 1
    assert len(windows) <= len(costs)


@given(num=st.integers(0, 200), max_words=st.integers(2, 30), width=st.integers(1, 7))
def test_narrow_spans_lie_within_the_window_that_answers_for_them(num, max_words, width):
    overlap = min(2 * width, max_words // 2)
    windows = plan_windows([1] * num, max_words=max_words, max_cost=None, overlap=overlap)
    for window in windows:
        for start in range(window.own_start, window.own_end):
            for end in range(start + 1, min(start + overlap // 2, num) + 1):
                assert window.start <= start
                assert end <= window.end
