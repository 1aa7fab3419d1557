"""Texts and labels to entities: the class that users hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from spanwright import modes
from spanwright.checkpoint import Package, load_package, local_folder, save_package
from spanwright.config import DecodeOptions
from spanwright.decoding import Selection, named, resolve
from spanwright.encoding import BatchEncoder, Row
from spanwright.entities import Entity, ScoredSpan, Word
from spanwright.errors import CheckpointError, ConfigError, DataError, require
from spanwright.model import GLiNER
from spanwright.text.windows import Window, plan_windows
from spanwright.text.words import Bounds, cutter, word_texts

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
_BATCH_TOKENS = {"cpu": 800}  # padded subtokens of a batch: what a processor's cache holds; other devices take more
_BATCH_TOKENS_ELSEWHERE = 65536
_BATCH_ROWS = 1024
_BATCHES_AHEAD = 2  # that a device has in hand while the host does its part
_ROWS_AT_ONCE = 8192  # sorted by length together
_BATCH_SCORES = 1 << 25  # 128 MiB in float32
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
        package = load_package(local_folder(name, revision=revision, variant=variant), variant=variant)
        package.model.to(_device(device), _dtype(dtype))
        return cls(package)

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
        if isinstance(texts, str):
            raise DataError("`texts` must be a list of strings, but is one string. Use `extract` for a single text.")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"texts[{index}] must be a string, but is {text!r} ({type(text).__name__}).")
        vectors = labels if isinstance(labels, LabelVectors) else None
        asked = (
            [labels.names] * len(texts) if isinstance(labels, LabelVectors) else _labels_per_text(labels, len(texts))
        )
        rows = (Row(self._words(text), names) for text, names in zip(texts, asked, strict=True))
        found = self.find_spans(rows, options, vectors)
        return [self._entities(text, spans) if spans else [] for text, spans in zip(texts, found, strict=True)]

    def find_spans(
        self, rows: Iterable[Row], options: DecodeOptions = DecodeOptions(), vectors: LabelVectors | None = None
    ) -> list[list[ScoredSpan]]:
        """The spans of each row of words, in the words' order. This is what `extract_many` and evaluation share.

        Rows are taken as they are needed, and while a device works on a batch the host prepares the next and decodes
        the last. A bi-encoder reads each distinct label once, unless `vectors` have them.

        Raises:
            ConfigError: the vectors are of other weights than the model has now.

        """
        if vectors is not None:
            self._require_current(vectors)
        elif self.model.config.is_bi_encoder:
            rows = list(rows)
            vectors = self.encode_labels(list(dict.fromkeys(label for row in rows for label in row.labels)))
        found: list[list[ScoredSpan]] = []
        asked: deque[tuple[list[_Question], Selection]] = deque()
        ahead = _BATCHES_AHEAD if self.model.device.type == "cuda" else 0
        for batch in self._all_batches(rows, found):
            asked.append((batch, self._score(batch, options, vectors)))
            if len(asked) > ahead:
                _collect(*asked.popleft(), found)
        while asked:
            _collect(*asked.popleft(), found)
        return [resolve(spans, options) for spans in found]

    def _all_batches(self, rows: Iterable[Row], found: list[list[ScoredSpan]]) -> Iterator[list[_Question]]:
        """Batches of some thousand rows at a time; `found` gets a place for what is found in each row."""
        rest = iter(rows)
        while some := list(islice(rest, _ROWS_AT_ONCE)):
            first = len(found)
            found += [[] for _ in some]
            questions = [question for index, row in enumerate(some, first) for question in self._questions(index, row)]
            yield from _batches(questions, self._batch_tokens(), self.model.config.max_width)

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

    def save(self, folder: str | Path) -> None:
        """Write the model in the published format, which gliner reads too; whole or not at all.

        Raises:
            CheckpointError: the folder cannot be written; what it held before is untouched.

        """
        save_package(self.package, Path(folder))

    def _questions(self, index: int, row: Row) -> Iterator[_Question]:
        """What to ask the network about a row: each window of it, with each group of labels that fits a prompt."""
        if not row.words or not row.labels:
            return
        config = self.model.config
        overlap = min(max(2 * config.max_width, config.max_words // 8), config.max_words // 2)
        costs = self.encoder.costs(row.words)
        for labels in self._label_groups(row.labels):
            prompt, room = len(self.encoder.prompt(labels).ids), self.encoder.room(labels)
            for window in plan_windows(costs, max_words=config.max_words, max_cost=room, overlap=overlap):
                words = row.words[window.start : window.end]
                yield _Question(index, window, Row(words, labels), prompt + sum(costs[window.start : window.end]))

    def _label_groups(self, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
        """`labels` whole, or in groups whose prompts leave half of the transformer's positions to the words."""
        limit = self.encoder.max_positions
        if limit is None or len(self.encoder.prompt(labels).ids) <= limit // 2:
            return [labels]
        groups: list[tuple[str, ...]] = []
        group: tuple[str, ...] = ()
        for label in labels:
            if len(self.encoder.prompt((label,)).ids) > limit // 2:
                raise DataError(
                    f"A label must fit half of the model's {limit} positions, but {label[:60]!r}... does not."
                )
            if group and len(self.encoder.prompt((*group, label)).ids) > limit // 2:
                groups.append(group)
                group = ()
            group = (*group, label)
        return [*groups, group]

    def _score(self, batch: Sequence[_Question], options: DecodeOptions, vectors: LabelVectors | None) -> Selection:
        rows = [question.asked for question in batch]
        # what a window does not answer for cannot keep out a span that it answers for
        whole = any(q.window.own_end < q.window.end or q.window.own_start > q.window.start for q in batch)
        if vectors is None:
            encoded = self.encoder.encode(rows)
        else:
            encoded = replace(self.encoder.encode(rows, vectors.places), labels=vectors.vectors)
        with modes.inference(self.model):
            scores = self.model(encoded.to(self.model.device), options.least_threshold())
            return Selection(scores, [row.labels for row in rows], options, whole=whole)

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

    def _batch_tokens(self) -> int:
        return _BATCH_TOKENS.get(self.model.device.type, _BATCH_TOKENS_ELSEWHERE)


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
class _Question:
    """One forward's worth of a row: `asked` are the words of `window` and a group of labels; cost in subtokens."""

    row: int
    window: Window
    asked: Row
    cost: int


def _batches(questions: Iterable[_Question], max_tokens: int, max_width: int) -> Iterator[list[_Question]]:
    """Questions of similar cost together, longest first, so that memory peaks at once and little is padding.

    A batch keeps below `max_tokens` subtokens and a fixed number of scores (words times labels times widths).
    """
    batch: list[_Question] = []
    words = labels = 0
    for question in sorted(questions, key=lambda question: -question.cost):
        words, labels = max(words, len(question.asked.words)), max(labels, len(question.asked.labels))
        rows = len(batch) + 1
        full = len(batch) == _BATCH_ROWS or rows * words * labels * max_width > _BATCH_SCORES
        if batch and (full or rows * batch[0].cost > max_tokens):
            yield batch
            batch, words, labels = [], len(question.asked.words), len(question.asked.labels)
        batch.append(question)
    if batch:
        yield batch


def _labels_per_text(labels: Sequence[str] | Sequence[Sequence[str]], num_texts: int) -> list[tuple[str, ...]]:
    if isinstance(labels, str):
        raise DataError(f"`labels` must be a list of strings, but is one string. Did you mean [{labels!r}]?")
    listed = list(labels)
    if all(isinstance(label, str) for label in listed):
        return [checked_labels(listed)] * num_texts
    if any(isinstance(label, str) or not isinstance(label, Iterable) for label in listed):
        raise DataError("`labels` must be strings, or one list of strings per text, but is a mixture of other things.")
    if len(listed) != num_texts:
        raise DataError(f"`labels` must be one list per text, but are {len(listed)} lists for {num_texts} texts.")
    return [checked_labels(own) for own in listed]


def checked_labels(labels: Iterable[object]) -> tuple[str, ...]:
    """Labels as a tuple, each once, in their order.

    Raises:
        DataError: one is not a string, or has nothing in it.

    """
    if isinstance(labels, str):
        raise DataError(f"`labels` must be a list of strings, but is one string. Did you mean [{labels!r}]?")
    checked = []
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"A label must be a string with something in it, but is {label!r}.")
        checked.append(label)
    return tuple(dict.fromkeys(checked))


def _collect(batch: Sequence[_Question], selection: Selection, found: list[list[ScoredSpan]]) -> None:
    """Add what was found in a batch, each span to its row, if its question answers for it."""
    for question, spans in zip(batch, named(selection.arrays(), [q.asked.labels for q in batch]), strict=True):
        window = question.window
        if window.start or window.own_end < window.end:
            spans = [
                span.shifted(window.start)
                for span in spans
                if window.own_start <= span.start + window.start < window.own_end
            ]
        found[question.row] += spans


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigError(f'`device` must be a name such as "cpu" or "cuda:0", but is {device!r}.') from None
    require(found.type != "cuda" or torch.cuda.is_available(), "device", "be on this machine", str(device))
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"`dtype` must be one of {', '.join(_DTYPES)}, but is {dtype!r}.")
    return found


__all__ = ["CheckpointError", "Extractor", "LabelVectors", "checked_labels"]
