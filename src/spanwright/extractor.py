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
from spanwright.encoding import BatchEncoder, Question, Row, Texts, TokenizedRow, batches_of, questions_of
from spanwright.entities import Entity, Extraction, Relation, ScoredRelation, ScoredSpan, Word
from spanwright.errors import ConfigError
from spanwright.model import GLiNER

_BATCH_TOKENS = {"cpu": 800}  # padded subtokens of a batch: what a processor's cache holds; other devices take more
_BATCH_TOKENS_ELSEWHERE = 65536
_BATCHES_AHEAD = 2  # that a device has in hand while the host does its part
_QUESTIONS_AT_ONCE = 8192  # sorted by length together
_LEAST_SCORE = 1e-6  # a logit of 14: beyond it float32 scores say nothing
_LABEL_ROWS = 64  # labels of a bi-encoder read at once


class Extractor:
    """Finds entities for any labels, given as words at call time.

    `model` is the network, an `nn.Module`; every call here leaves its modes, its gradients and all global state as it
    found them.
    """

    def __init__(self, package: Package) -> None:
        self.package = package

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
        read = self._read(texts)
        entities: list[list[Entity]] = [[] for _ in texts]
        for index, found in self._find(read.rows(asked), options, vectors):
            entities[index] = read.entities(index, found.spans)
        return entities

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
        read = self._read(texts)
        extractions = [Extraction([], []) for _ in texts]
        for index, found in self._find(read.rows(asked, related), options, None):
            extractions[index] = _extraction(read.entities(index, found.spans), found)
        return extractions

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

        A bi-encoder reads each distinct label once, unless `vectors` have them.

        Raises:
            ConfigError: the vectors are of other weights than the model has now.

        """
        rows = list(rows)
        places = [Found([], []) for _ in rows]
        for index, found in self._find(map(self.encoder.tokenized, rows), options, vectors):
            places[index] = found
        return places

    def _find(
        self, rows: Iterable[TokenizedRow], options: DecodeOptions, vectors: LabelVectors | None
    ) -> Iterator[tuple[int, Found]]:
        """The index of each row in which something is found, and what; as soon as it is known, so in any order.

        This is what `extract_many` and evaluation share. Rows are taken as they are needed, and while a device works on
        a batch the host prepares the next and decodes the last.
        """
        if vectors is not None:
            self._require_current(vectors)
        elif self.model.config.is_bi_encoder:
            rows = list(rows)
            vectors = self.encode_labels(list(dict.fromkeys(label for row in rows for label in row.labels)))
        options = options.decided(self.model.config.thresholds)
        parts: dict[int, Found] = {}  # of rows that are asked more than once
        for answers in self._answers(rows, options, vectors):
            for question, found in answers.collect():
                if question.alone:
                    yield question.index, _resolved(found, options)
                else:
                    whole = parts.setdefault(question.index, Found([], []))
                    whole.spans.extend(found.spans)
                    whole.relations.extend(found.relations)
        for index, found in parts.items():
            yield index, _resolved(found, options)

    def _answers(
        self, rows: Iterable[TokenizedRow], options: DecodeOptions, vectors: LabelVectors | None
    ) -> Iterator[_Answers]:
        asked: deque[_Answers] = deque()
        ahead = _BATCHES_AHEAD if self.model.device.type == "cuda" else 0
        for batch in self._all_batches(rows):
            asked.append(self._ask(batch, options, vectors))
            if len(asked) > ahead:
                yield asked.popleft()
        yield from asked

    def _all_batches(self, rows: Iterable[TokenizedRow]) -> Iterator[list[Question]]:
        questions = (question for index, row in enumerate(rows) for question in questions_of(self.encoder, index, row))
        max_tokens = _BATCH_TOKENS.get(self.model.device.type, _BATCH_TOKENS_ELSEWHERE)
        while some := list(islice(questions, _QUESTIONS_AT_ONCE)):
            yield from batches_of(some, max_tokens=max_tokens, max_width=self.model.config.max_width)

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
        return tuple(Word(text[start:end], start, end) for start, end in self._read([text]).bounds(0))

    def _read(self, texts: Sequence[str]) -> Texts:
        return Texts(texts, self.model.config.word_splitter, self.encoder.subtokens)

    def save(self, folder: str | Path, *, as_int8: bool = False) -> None:
        """Write the model in the published format, which gliner reads too; whole or not at all.

        as_int8: with a byte for each weight of a matrix, a quarter of the size; gliner does not read that.

        Raises:
            CheckpointError: the folder cannot be written; what it held before is untouched.

        """
        save_package(self.package, Path(folder), as_int8=as_int8)

    def _ask(self, batch: Sequence[Question], options: DecodeOptions, vectors: LabelVectors | None) -> _Answers:
        # what a window does not answer for cannot keep out a span that it answers for
        whole = any(q.window.own_end < q.window.end or q.window.own_start > q.window.start for q in batch)
        if vectors is None:
            encoded = self.encoder.encode_tokenized(batch)
        else:
            encoded = replace(self.encoder.encode_tokenized(batch, vectors.places), labels=vectors.vectors)
        with modes.inference(self.model):
            scores = self.model(encoded.to(self.model.device), options.least_threshold(), options.least_adjacency())
            selection = Selection(scores, [question.labels for question in batch], options, whole=whole)
            if scores.relations is None:
                return _Answers(batch, selection)
            return _Answers(
                batch,
                selection,
                relation_candidates(scores.relations, [question.relations for question in batch], options),
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

    def collect(self) -> Iterator[tuple[Question, Found]]:
        """The questions that found something, and what: each span that the question answers for."""
        labels = [question.labels for question in self.batch]
        spans_of = named(self.selection.arrays(), labels)
        relations_of = self.relations or [()] * len(self.batch)
        for question, spans, relations in zip(self.batch, spans_of, relations_of, strict=True):
            if not spans and not relations:
                continue
            window = question.window
            if window.start or window.own_end < window.end:
                spans = [
                    span.shifted(window.start)
                    for span in spans
                    if window.own_start <= span.start + window.start < window.own_end
                ]
            yield question, Found(spans, [relation.shifted(window.start) for relation in relations])


def _resolved(row: Found, options: DecodeOptions) -> Found:
    spans = resolve(row.spans, options)
    if not row.relations:
        return Found(spans, [])
    return Found(spans, sorted(between(row.relations, spans), key=lambda r: (r.head, r.tail)))


def _extraction(entities: list[Entity], found: Found) -> Extraction:
    by_words: dict[tuple[int, int], Entity] = {}
    for span, entity in zip(found.spans, entities, strict=True):
        by_words.setdefault((span.start, span.end), entity)  # of several labels, the better one stands first
    relations = [Relation(by_words[r.head], by_words[r.tail], r.label, r.score) for r in found.relations]
    return Extraction(entities, relations)


__all__ = ["Extractor", "Found", "LabelVectors"]
