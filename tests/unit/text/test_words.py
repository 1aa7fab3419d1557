import itertools
import time
import unicodedata

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
        ("น้ำ", ["น้ำ"]),  # the vowel AM is a letter to Python
        ("ｶﾞｽ", ["ｶﾞ", "ｽ"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("\u0301a \u0301", ["\u0301", "a", "\u0301"]),  # a mark that stands on nothing
        ("❤\ufe0f!", ["❤\ufe0f", "!"]),
        ("发邮件到a@b.com吧", ["发", "邮", "件", "到", "a@b.com", "吧"]),
        ("约3.5米，-3度", ["约", "3.5", "米", "，", "-3", "度"]),
        ("v1.1 3.14. 1.1a 1-3 -34a", ["v1", ".", "1", "3.14", ".", "1", ".", "1a", "1-3", "-", "34a"]),
        ("ลาวລາວខ្មែរမြန်မာབོད", ["ล", "า", "ว", "ລ", "າ", "ວ", "ខ្", "មែ", "រ", "မြ", "န်", "မာ", "བོ", "ད"]),
        ("@b.c a@b a@b.c-", ["@", "b", ".", "c", "a", "@", "b", "a@b.c", "-"]),
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


@pytest.mark.parametrize("script", ["HIRAGANA", "KATAKANA", "CJK", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"])
def test_every_letter_of_a_script_without_spaces_is_a_word(script):
    letters = [chr(code) for code in range(0x40000) if unicodedata.name(chr(code), "").startswith(script + " ")]
    letters = [char for char in letters if char.isalnum() and char not in "\u0e33\u0eb3"]  # AM joins what it follows
    assert letters
    assert [word.text for word in splitter("script")("".join(letters))] == letters


@given(text=st.text())
def test_no_mark_begins_a_word_unless_it_stands_on_nothing(text):
    for word in splitter("script")(text):
        if unicodedata.category(word.text[0]).startswith("M"):
            assert word.start == 0 or text[word.start - 1].isspace()


@given(text=st.text(st.characters(max_codepoint=0x2FF)))
def test_the_script_rule_is_the_published_one_but_for_emails_and_numbers(text):
    text = text.replace("@", "").translate({ord(char): None for char in "+-.,"})
    assert splitter("script")(text) == splitter("whitespace")(text)


@pytest.mark.parametrize("name", ["whitespace", "script"])
@pytest.mark.parametrize("piece", [".", "中", "a.b-", "1,", "-", "a@", "_", "a", "e\u0301", "\u0301"])
def test_no_text_takes_more_than_linear_time(name, piece):
    before = time.process_time()
    splitter(name)(piece * 100_000)
    assert time.process_time() - before < 5  # quadratic time would be minutes


def test_an_unknown_splitter_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean `whitespace`"):
        splitter("whitespaces")
