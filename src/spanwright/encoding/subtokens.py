"""From words to the subtokens of the backbone's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

_CACHE_LIMIT = 500_000  # words; cleared when full, so that a stream of any length runs in bounded memory


class Subtokens:
    """Vocabulary ids of words, each word on its own, remembered.

    It works on its own copy of the tokenizer, so nobody's truncation or padding settings are read or changed. Text is
    text: a special token that a user wrote ("[SEP]", "<<ENT>>") is split like any other word.
    """

    def __init__(self, tokenizer: Tokenizer, *, pad_id: int, unknown_id: int | None) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.pad_id = pad_id
        self._stand_in = pad_id if unknown_id is None else unknown_id
        self.prefix, self.suffix = self._special_ids()
        self._tokenizer.encode_special_tokens = True
        self._known: dict[str, tuple[int, ...]] = {}

    def ids(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """The ids of each word; empty for a word that the tokenizer sees nothing in (a zero-width space)."""
        try:
            return list(map(self._known.__getitem__, words))
        except KeyError:
            return self._ids_of_new(words)

    def _ids_of_new(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        found = {word: ids for word in words if (ids := self._known.get(word)) is not None}
        unknown = list(dict.fromkeys(word for word in words if word not in found))
        if unknown:
            encodings = self._tokenizer.encode_batch(
                [[_encodable(word)] for word in unknown], is_pretokenized=True, add_special_tokens=False
            )
            new = {word: tuple(encoding.ids) for word, encoding in zip(unknown, encodings, strict=True)}
            if len(self._known) + len(new) > _CACHE_LIMIT:
                self._known.clear()
            self._known.update(new)
            found.update(new)
        return [found[word] for word in words]

    def ids_or_stand_in(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """As `ids`, with the unknown token for a word that has none: every word keeps its place."""
        found = self.ids(words)
        return found if all(found) else [ids or (self._stand_in,) for ids in found]

    def text_ids(self, text: str) -> list[int]:
        """The ids of a whole text, with what the tokenizer puts before and after a sequence."""
        ids: list[int] = self._tokenizer.encode(_encodable(text), add_special_tokens=True).ids
        return ids

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary, None if it has none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def _special_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the tokenizer puts before and after a sequence, read off one that it encodes."""
        bare = self._tokenizer.encode(["a"], is_pretokenized=True, add_special_tokens=False).ids
        full = self._tokenizer.encode(["a"], is_pretokenized=True, add_special_tokens=True).ids
        at = next(i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare)
        return tuple(full[:at]), tuple(full[at + len(bare) :])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_known": {}}


def _encodable(word: str) -> str:
    """`word` with lone surrogates, which no tokenizer can read, replaced one for one by U+FFFD."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return word.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return word
