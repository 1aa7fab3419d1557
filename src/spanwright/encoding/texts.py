"""From texts to the words that a model can see, and from spans of these back to characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, islice
from operator import attrgetter

from spanwright.config import Splitter
from spanwright.encoding.batch import TokenizedRow
from spanwright.encoding.subtokens import Subtokens
from spanwright.entities import Entity, ScoredSpan
from spanwright.text.words import cutter, word_texts

_END = attrgetter("end")


class Texts:
    """Texts as rows of words, without those that the tokenizer finds nothing in (a zero-width space)."""

    def __init__(self, texts: Sequence[str], word_splitter: Splitter, subtokens: Subtokens) -> None:
        self._texts = list(texts)
        self._word_splitter = word_splitter
        self._cut = cutter(word_splitter)
        self._subtokens = subtokens
        self._gapped: set[int] = set()  # texts with words that are left out

    def rows(
        self, labels: Iterable[tuple[str, ...]], relations: Iterable[tuple[str, ...]] | None = None
    ) -> Iterator[TokenizedRow]:
        """Each text with the labels and the relations that are asked of it."""
        related = [()] * len(self._texts) if relations is None else relations
        for index, (text, *names) in enumerate(zip(self._texts, labels, related, strict=True)):
            ids = self._subtokens.ids(word_texts(self._word_splitter, text))
            if not all(ids):
                self._gapped.add(index)
                ids = list(filter(None, ids))
            yield TokenizedRow(tuple(ids), *names)

    def bounds(self, index: int) -> list[tuple[int, int]]:
        """Of each word of a text, in characters."""
        text = self._texts[index]
        bounds = list(self._cut(text))
        return list(compress(bounds, self._subtokens.ids([text[start:end] for start, end in bounds])))

    def entities(self, index: int, spans: Sequence[ScoredSpan]) -> list[Entity]:
        """The spans of a text whose row was taken, in characters."""
        if not spans:
            return []
        text = self._texts[index]
        last = max(map(_END, spans))  # no word after it has to be found again
        bounds = self.bounds(index) if index in self._gapped else list(islice(self._cut(text), last))
        places = [(bounds[span.start][0], bounds[span.end - 1][1], span) for span in spans]
        return [Entity(start, end, text[start:end], span.label, span.score) for start, end, span in places]
