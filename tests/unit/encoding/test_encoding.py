from __future__ import annotations

import pickle

import pytest
import torch

from spanwright import DataError, Span
from spanwright.encoding import Row, Subtokens, encode_targets
from spanwright.encoding import subtokens as subtokens_module
from spanwright.encoding.targets import num_spans
from support.tiny import LABELS, SENTENCES, tiny_extractor, tiny_tokenizer


@pytest.fixture(scope="module")
def encoder():
    return tiny_extractor("bert").encoder


def test_the_prompt_by_hand(encoder):
    ids = {token: encoder.subtokens.id_of(token) for token in ("[CLS]", "[SEP]", "<<ENT>>", "<<SEP>>", "[PAD]")}
    person, party = encoder.subtokens.ids(["person", "political party"])
    words = encoder.subtokens.ids(["United", "Russia"])
    batch = encoder.encode([Row(("United", "Russia"), ("person", "political party")), Row(("Russia",), ("person",))])
    expected = [
        ids["[CLS]"],
        ids["<<ENT>>"],
        *person,
        ids["<<ENT>>"],
        *party,
        ids["<<SEP>>"],
        *words[0],
        *words[1],
        ids["[SEP]"],
    ]
    assert batch.input_ids[0].tolist() == expected
    assert batch.label_positions[0].tolist() == [1, 2 + len(person)]
    first = 4 + len(person) + len(party)
    assert batch.word_starts[0].tolist() == [first, first + len(words[0])]
    assert batch.word_ends[0].tolist() == [first + len(words[0]), len(expected) - 1]
    assert batch.label_mask.tolist() == [[True, True], [True, False]]
    assert batch.word_mask.tolist() == [[True, True], [True, False]]
    assert batch.word_counts == (2, 1)
    assert (batch.input_ids[1][~batch.attention_mask[1]] == ids["[PAD]"]).all()


def test_special_tokens_in_text_are_text(encoder):
    marker = encoder.subtokens.id_of("<<ENT>>")
    batch = encoder.encode([Row(("<<ENT>>", "[SEP]"), ("x <<ENT>> y", "person"))])
    assert (batch.input_ids[0] == marker).sum() == 2


def test_words_without_subtokens_keep_their_place(encoder):
    assert encoder.subtokens.ids(["\u200b", "Russia"])[0] == ()
    assert encoder.costs(["\u200b"]) == [1]
    batch = encoder.encode([Row(("\u200b", "Russia"), ("person",))])
    assert batch.word_counts == (2,)


def test_lone_surrogates_are_read_as_one_unknown_character(encoder):
    assert encoder.subtokens.ids(["\ud800"]) == encoder.subtokens.ids(["\ufffd"])


def test_a_word_longer_than_all_positions_is_cut_to_them():
    encoder = tiny_extractor("xlm-roberta").encoder
    batch = encoder.encode([Row(("ab" * 2000,), ("person",))])
    assert batch.input_ids.shape[1] == encoder.max_positions


def test_rows_must_have_words_and_labels(encoder):
    for row in (Row((), ("person",)), Row(("a",), ())):
        with pytest.raises(DataError, match="must have words and labels"):
            encoder.encode([row])
    with pytest.raises(DataError, match="something to read"):
        encoder.encode([Row(("a",), ("\u200b",))])


def test_the_users_tokenizer_is_neither_read_nor_changed():
    tokenizer = tiny_tokenizer("bert").backend_tokenizer
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    subtokens = Subtokens(tokenizer, pad_id=0, unknown_id=None)
    assert len(subtokens.ids([SENTENCES[0].replace(" ", "")])[0]) > 3
    assert tokenizer.truncation["max_length"] == 3
    assert tokenizer.padding["length"] == 9
    assert not tokenizer.encode_special_tokens


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(subtokens_module, "_CACHE_LIMIT", 3)
    subtokens = tiny_extractor("bert").encoder.subtokens
    words = SENTENCES[0].split()
    assert subtokens.ids(words) == subtokens.ids(words)
    subtokens.ids(["Yes"])
    assert len(subtokens._known) <= len(set(words))


def test_an_encoder_travels_to_other_processes(encoder):
    copy = pickle.loads(pickle.dumps(encoder))
    rows = [Row(tuple(SENTENCES[0].split()), LABELS)]
    assert torch.equal(copy.encode(rows).input_ids, encoder.encode(rows).input_ids)


def test_targets_by_hand():
    rows = [Row(("a", "b", "c"), ("x", "y")), Row(("a",), ("y",))]
    targets = encode_targets([[Span(0, 2, "y"), Span(2, 3, "x")], [Span(0, 1, "y")]], rows, max_width=2)
    assert targets.values.shape == (2, 3, 2, 2)
    assert targets.values.nonzero().tolist() == [[0, 0, 1, 1], [0, 2, 0, 0], [1, 0, 0, 0]]
    assert targets.num_cells == 5 * 2 + 1


def test_num_spans_by_counting():
    for length in range(1, 9):
        for width in range(1, 9):
            assert num_spans(length, width) == sum(1 for i in range(length) for j in range(i, length) if j - i < width)
