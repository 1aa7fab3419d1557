"""Texts and labels to entities: the class that users hold."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from spanwright import modes
from spanwright.arguments import checked_labels, chosen_device, chosen_dtype, labels_per_text, require_texts
from spanwright.checkpoint import DEFAULT_MODEL, Package, fetch_package, save_package
from spanwright.config import DecodeOptions
from spanwright.decoding import Selection, between, named, relation_candidates, resolve
from spanwright.encoding import BatchEncoder, Question, Row, batches_of, questions_of
from spanwright.entities import Entity, Extraction, Relation, ScoredRelation, ScoredSpan, Word
from spanwright.errors import ConfigError
from spanwright.model import GLiNER
from spanwright.text.words import Bounds, cutter, word_texts

_BATCH_TOKENS = {"cpu": 800}  # padded subtokens of a batch: what a processor's cache holds; other devices take more
_BATCH_TOKENS_ELSEWHERE = 65536
_BATCHES_AHEAD = 2  # that a device has in hand while the host does its part
_ROWS_AT_ONCE = 8192  # sorted by length together
_LEAST_SCORE = 1e-6  # a logit of 14: beyond it float32 scores say nothing
_LABEL_ROWS = 64  # labels of a bi-encoder read at once


class Extractor:
    """Finds entities for any labels, given as words at call time.

    `model` is the network, an `nn.Module`; every call here leaves its modes, its gradients and all global state as it
    found them.
    """

    def __init__(self, package: Package) -> None:
        self.package = package
        self._cut = cutter(package.model.config.word_splitter)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        variant: str | None = None,
    ) -> Extractor:
        """The model in a folder, or of that name on the Hugging Face hub.

        device: where to run, by default the GPU if there is one. dtype: of the weights, by default float32. revision:
        a branch, tag or commit on the hub. variant: "fp16" or "bf16", to read such weights where the model has them.

        Raises:
            CheckpointError: there is no such model, or it is damaged or of another kind.
            ConfigError: the device or the dtype is none.

        """
        package, _ = fetch_package(name, revision=revision, variant=variant)
        package.model.to(chosen_device(device), chosen_dtype(dtype))
        return cls(package)

    @classmethod
    def default(cls, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> Extractor:
        """The model that comes with Spanwright: nothing is downloaded. Arguments as those of `from_pretrained`.

        What it is, what it was trained on and how right it is: the model card, ``spanwright inspect default``.
        """
        return cls.from_pretrained(DEFAULT_MODEL, device=device, dtype=dtype)

    @property
    def model(self) -> GLiNER:
        """The network."""
        return self.package.model

    @property
    def encoder(self) -> BatchEncoder:
        """What turns words and labels into the network's tensors."""
        return self.package.encoder

    def encode_labels(self, labels: Sequence[str]) -> LabelVectors:
        """The vectors of labels that a bi-encoder reads by themselves, to be given wherever labels are.

        They cost one forward per label, once; a text then costs the same with ten labels as with thousands but for
        the comparison itself.

        Raises:
            ConfigError: the model reads labels together with the text.
            DataError: a label is empty or not a string.

        """
        if not self.model.config.is_bi_encoder:
            raise ConfigError(
                "`encode_labels` must be asked of a bi-encoder, but this model reads labels and text as one."
            )
        names = checked_labels(labels)
        vectors = []
        for start in range(0, len(names), _LABEL_ROWS):
            texts = self.encoder.encode_labels(names[start : start + _LABEL_ROWS])
            with modes.inference(self.model):
                vectors.append(self.model.encode_labels(texts.to(self.model.device)))
        size = self.model.config.hidden_size
        return LabelVectors(names, torch.cat(vectors) if vectors else torch.zeros(0, size), self._label_weights())

    def extract(self, text: str, labels: Labels, options: DecodeOptions = DecodeOptions()) -> list[Entity]:
        """The entities of one text, in its order. A text of any length is read whole, in overlapping windows.

        Raises:
            DataError: `text` is not a string, or a label is empty or not a string.

        """
        return self.extract_many([text], labels, options)[0]

    def extract_many(
        self,
        texts: Sequence[str],
        labels: Labels | Sequence[Sequence[str]],
        options: DecodeOptions = DecodeOptions(),
    ) -> list[list[Entity]]:
        """The entities of each text, in the texts' order. `labels` are one list for all, or one list per text.

        To a bi-encoder, `labels` may be what `encode_labels` gave.

        Raises:
            DataError: a text or label is not a string, a label is empty, or there are not as many lists as texts.

        """
        require_texts(texts)
        vectors = labels if isinstance(labels, LabelVectors) else None
        asked = [labels.names] * len(texts) if isinstance(labels, LabelVectors) else labels_per_text(labels, len(texts))
        rows = (Row(self._words(text), names) for text, names in zip(texts, asked, strict=True))
        found = self.find_spans(rows, options, vectors)
        return [self._entities(text, spans) if spans else [] for text, spans in zip(texts, found, strict=True)]

    def extract_relations(
        self, text: str, labels: Sequence[str], relations: Sequence[str], options: DecodeOptions = DecodeOptions()
    ) -> Extraction:
        """The entities of one text, and the relations between them. Of a relation model only.

        Raises:
            ConfigError: the model knows no relations.
            DataError: as `extract`.

        """
        return self.extract_relations_many([text], labels, relations, options)[0]

    def extract_relations_many(
        self,
        texts: Sequence[str],
        labels: Sequence[str] | Sequence[Sequence[str]],
        relations: Sequence[str] | Sequence[Sequence[str]],
        options: DecodeOptions = DecodeOptions(),
    ) -> list[Extraction]:
        """The entities and relations of each text. `labels`, `relations`: one list for all, or one list per text.

        Relations come in the order of heads, then tails; both are among the text's entities.

        Raises:
            ConfigError: the model knows no relations.
            DataError: as `extract_many`.

        """
        if not self.model.config.finds_relations:
            raise ConfigError("`extract_relations` must be asked of a relation model, but this model knows none.")
        require_texts(texts)
        asked, related = (labels_per_text(names, len(texts)) for names in (labels, relations))
        rows = (Row(self._words(text), *names) for text, *names in zip(texts, asked, related, strict=True))
        return [self._extraction(text, found) for text, found in zip(texts, self.find(rows, options), strict=True)]

    def find_spans(
        self, rows: Iterable[Row], options: DecodeOptions = DecodeOptions(), vectors: LabelVectors | None = None
    ) -> list[list[ScoredSpan]]:
        """The spans of each row of words, in the words' order.

        Raises:
            ConfigError: as `find`.

        """
        return [found.spans for found in self.find(rows, options, vectors)]

    def find(
        self, rows: Iterable[Row], options: DecodeOptions = DecodeOptions(), vectors: LabelVectors | None = None
    ) -> list[Found]:
        """The spans of each row of words, in the words' order, and their relations.

        This is what `extract_many` and evaluation share. Rows are taken as they are needed, and while a device works on
        a batch the host prepares the next and decodes the last. A bi-encoder reads each distinct label once, unless
        `vectors` have them.

        Raises:
            ConfigError: the vectors are of other weights than the model has now.

        """
        if vectors is not None:
            self._require_current(vectors)
        elif self.model.config.is_bi_encoder:
            rows = list(rows)
            vectors = self.encode_labels(list(dict.fromkeys(label for row in rows for label in row.labels)))
        options = options.decided(self.model.config.thresholds)
        found: list[Found | None] = []  # a place for each row; thousands of empty lists would keep the collector busy
        asked: deque[_Answers] = deque()
        ahead = _BATCHES_AHEAD if self.model.device.type == "cuda" else 0
        for batch in self._all_batches(rows, found):
            asked.append(self._ask(batch, options, vectors))
            if len(asked) > ahead:
                asked.popleft().collect(found)
        while asked:
            asked.popleft().collect(found)
        return [Found([], []) if row is None else _resolved(row, options) for row in found]

    def _all_batches(self, rows: Iterable[Row], found: list[Found | None]) -> Iterator[list[Question]]:
        """Batches of some thousand rows at a time; `found` gets a place for what is found in each row."""
        rest = iter(rows)
        max_tokens = _BATCH_TOKENS.get(self.model.device.type, _BATCH_TOKENS_ELSEWHERE)
        while some := list(islice(rest, _ROWS_AT_ONCE)):
            first = len(found)
            found += [None] * len(some)
            questions = [
                question for index, row in enumerate(some, first) for question in questions_of(self.encoder, index, row)
            ]
            yield from batches_of(questions, max_tokens=max_tokens, max_width=self.model.config.max_width)

    def probability(self, score: float) -> float:
        """How often an entity of that score is right, by the data that the package's calibration was fitted on.

        Raises:
            ConfigError: the package has no calibration.

        """
        if self.model.config.calibration is None:
            raise ConfigError("`probability` must be asked of a model with a calibration, but this one has none.")
        slope, shift = self.model.config.calibration
        clipped = min(max(score, _LEAST_SCORE), 1 - _LEAST_SCORE)
        logit = slope * math.log(clipped / (1 - clipped)) + shift
        return (1 + math.tanh(logit / 2)) / 2  # the sigmoid, which an exponential may overflow

    def split_words(self, text: str) -> tuple[Word, ...]:
        """The words of `text` that the model can see: without those that its tokenizer finds nothing in."""
        return tuple(Word(text[start:end], start, end) for start, end in self._bounds(text))

    def _words(self, text: str) -> tuple[str, ...]:
        words = word_texts(self.model.config.word_splitter, text)
        seen = self.encoder.subtokens.ids(words)
        return tuple(words if all(seen) else (word for word, ids in zip(words, seen, strict=True) if ids))

    def _bounds(self, text: str) -> Bounds:
        """Of the words that the model can see, in characters."""
        bounds = self._cut(text)
        seen = self.encoder.subtokens.ids([text[start:end] for start, end in bounds])
        return bounds if all(seen) else [place for place, ids in zip(bounds, seen, strict=True) if ids]

    def _entities(self, text: str, spans: Iterable[ScoredSpan]) -> list[Entity]:
        bounds = self._bounds(text)
        places = [(bounds[span.start][0], bounds[span.end - 1][1], span) for span in spans]
        return [Entity(start, end, text[start:end], span.label, span.score) for start, end, span in places]

    def _extraction(self, text: str, found: Found) -> Extraction:
        entities = self._entities(text, found.spans)
        by_words: dict[tuple[int, int], Entity] = {}
        for span, entity in zip(found.spans, entities, strict=True):
            by_words.setdefault((span.start, span.end), entity)  # of several labels, the better one stands first
        relations = [Relation(by_words[r.head], by_words[r.tail], r.label, r.score) for r in found.relations]
        return Extraction(entities, relations)

    def save(self, folder: str | Path, *, as_int8: bool = False) -> None:
        """Write the model in the published format, which gliner reads too; whole or not at all.

        as_int8: with a byte for each weight of a matrix, a quarter of the size; gliner does not read that.

        Raises:
            CheckpointError: the folder cannot be written; what it held before is untouched.

        """
        save_package(self.package, Path(folder), as_int8=as_int8)

    def _ask(self, batch: Sequence[Question], options: DecodeOptions, vectors: LabelVectors | None) -> _Answers:
        rows = [question.asked for question in batch]
        # what a window does not answer for cannot keep out a span that it answers for
        whole = any(q.window.own_end < q.window.end or q.window.own_start > q.window.start for q in batch)
        if vectors is None:
            encoded = self.encoder.encode(rows)
        else:
            encoded = replace(self.encoder.encode(rows, vectors.places), labels=vectors.vectors)
        with modes.inference(self.model):
            scores = self.model(encoded.to(self.model.device), options.least_threshold(), options.least_adjacency())
            selection = Selection(scores, [row.labels for row in rows], options, whole=whole)
            if scores.relations is None:
                return _Answers(batch, selection)
            return _Answers(
                batch, selection, relation_candidates(scores.relations, [row.relations for row in rows], options)
            )

    def _label_weights(self) -> tuple[object, ...]:
        """What changes whenever the weights that label vectors come from do: storages, versions, kinds."""
        parameters = self.model.label_encoder.parameters() if self.model.label_encoder is not None else ()
        return tuple((p.data_ptr(), p._version, p.dtype, p.device) for p in parameters)

    def _require_current(self, vectors: LabelVectors) -> None:
        if vectors.weights != self._label_weights():
            raise ConfigError(
                "`labels` must be vectors of the model's weights, but the weights have changed or are another model's. "
                "Call `encode_labels` again."
            )


@dataclass(frozen=True, eq=False)
class LabelVectors:
    """Labels that a bi-encoder has read: `vectors` (N, D), one for each of `names`."""

    names: tuple[str, ...]
    vectors: torch.Tensor
    weights: tuple[object, ...] = field(repr=False)

    @cached_property
    def places(self) -> dict[str, int]:
        """The row of each label's vector."""
        return {name: place for place, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)


Labels = Sequence[str] | LabelVectors


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a row of words: its spans, and the relations between their words."""

    spans: list[ScoredSpan]
    relations: list[ScoredRelation]


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the network says of a batch of questions; the spans are still on their way."""

    batch: Sequence[Question]
    selection: Selection
    relations: Sequence[Sequence[ScoredRelation]] = ()

    def collect(self, found: list[Found | None]) -> None:
        """Add what was found to the rows, each span if its question answers for it."""
        labels = [question.asked.labels for question in self.batch]
        for question, spans in zip(self.batch, named(self.selection.arrays(), labels), strict=True):
            window = question.window
            if window.start or window.own_end < window.end:
                spans = [
                    span.shifted(window.start)
                    for span in spans
                    if window.own_start <= span.start + window.start < window.own_end
                ]
            row = found[question.row]
            if row is None:
                found[question.row] = Found(spans, [])
            else:
                row.spans.extend(spans)
        for question, relations in zip(self.batch, self.relations, strict=False):  # none of a model that knows none
            row = found[question.row]
            assert row is not None
            row.relations.extend(relation.shifted(question.window.start) for relation in relations)


def _resolved(row: Found, options: DecodeOptions) -> Found:
    spans = resolve(row.spans, options)
    if not row.relations:
        return Found(spans, [])
    return Found(spans, sorted(between(row.relations, spans), key=lambda r: (r.head, r.tail)))


__all__ = ["Extractor", "Found", "LabelVectors"]
