import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanwright.errors import ConfigError
from spanwright.text import splitter


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada wrote it.", ["Ada", "wrote", "it", "."]),
        ("e-mail foo_bar-baz", ["e-mail", "foo_bar-baz"]),
        ("don't 3.14 a--b", ["don", "'", "t", "3", ".", "14", "a", "-", "-", "b"]),
        ("日本語", ["日本語"]),
        ("", []),
        (" \t\n", []),
    ],
)
def test_the_published_rule(text, words):
    assert [word.text for word in splitter("whitespace")(text)] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("東京に行く", ["東", "京", "に", "行", "く"]),
        ("AppleはTokyoで", ["Apple", "は", "Tokyo", "で"]),
        ("mail a.b@c-d.org now", ["mail", "a.b@c-d.org", "now"]),
        ("1.1 and -3 and 1,000.5", ["1.1", "and", "-3", "and", "1,000.5"]),
        ("don't", ["don", "'", "t"]),
        ("2019-2020", ["2019-2020"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are inside words
        ("ก้า", ["ก้", "า"]),  # the tone mark stays with its base
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),  # a variation selector of the supplement
        ("e\u0301a", ["e\u0301a"]),
    ],
)
def test_the_script_aware_rule(text, words):
    assert [word.text for word in splitter("script")(text)] == words


@pytest.mark.parametrize("name", ["whitespace", "script"])
@given(text=st.text())
def test_words_stand_where_they_say_and_leave_out_nothing_visible(name, text):
    words = splitter(name)(text)
    assert all(text[word.start : word.end] == word.text for word in words)
    assert all(one.end <= other.start for one, other in itertools.pairwise(words))
    between = "".join(
        text[one:other]
        for one, other in zip([0, *(w.end for w in words)], [*(w.start for w in words), len(text)], strict=True)
    )
    assert not between.strip()


def test_an_unknown_splitter_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean `whitespace`"):
        splitter("whitespaces")
