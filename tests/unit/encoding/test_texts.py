from __future__ import annotations

import pytest

from spanwright.encoding import Texts, TokenizedRow
from spanwright.entities import Entity, ScoredSpan
from support.tiny import tiny_extractor

SUBTOKENS = tiny_extractor("bert").encoder.subtokens
HIDDEN = "\u200b"  # the tokenizer finds nothing in it


@pytest.mark.parametrize(
    "text", ["Angela Merkel , Berlin", f"{HIDDEN} Angela {HIDDEN}{HIDDEN} Merkel , Berlin {HIDDEN}"]
)
def test_to_words_and_back(text):
    texts = Texts([text], "whitespace", SUBTOKENS)
    words = ["Angela", "Merkel", ",", "Berlin"]
    assert [text[start:end] for start, end in texts.bounds(0)] == words
    (row,) = texts.rows([("person",)])
    assert row == TokenizedRow(tuple(SUBTOKENS.ids(words)), ("person",))
    spans = [ScoredSpan(3, 4, "city", 0.8), ScoredSpan(0, 2, "person", 0.9)]
    person, city = (text.index("Angela"), text.index("Merkel") + 6), (text.index("Berlin"), text.index("Berlin") + 6)
    assert texts.entities(0, spans) == [
        Entity(*city, "Berlin", "city", 0.8),
        Entity(*person, text[slice(*person)], "person", 0.9),
    ]


def test_each_text_has_its_own():
    texts = Texts(["Yes .", HIDDEN, f"{HIDDEN} Yes", ""], "script", SUBTOKENS)
    rows = list(texts.rows([("a",), ("b",), ("c",), ("d",)], [("r",), (), ("s",), ()]))
    assert [(len(row.ids), row.labels, row.relations) for row in rows] == [
        (2, ("a",), ("r",)),
        (0, ("b",), ()),
        (1, ("c",), ("s",)),
        (0, ("d",), ()),
    ]
    (found,) = texts.entities(2, [ScoredSpan(0, 1, "c", 0.5)])
    assert (found.start, found.end, found.text) == (2, 5, "Yes")
    assert texts.entities(1, []) == []
