"""Texts and labels to entities: the class that users hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spanwright import modes
from spanwright.checkpoint import Package, load_package, local_folder, save_package
from spanwright.config import DecodeOptions
from spanwright.decoding import candidates, resolve
from spanwright.encoding import BatchEncoder, Row
from spanwright.entities import Entity, ScoredSpan, Word
from spanwright.errors import CheckpointError, ConfigError, DataError, require
from spanwright.model import GLiNER
from spanwright.text.windows import Window, plan_windows
from spanwright.text.words import splitter

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
_BATCH_TOKENS = {"cpu": 4096}  # padded subtokens of a batch; other devices take the larger number
_BATCH_TOKENS_ELSEWHERE = 32768
_BATCH_ROWS = 256


class Extractor:
    """Finds entities for any labels, given as words at call time.

    `model` is the network, an `nn.Module`; every call here leaves its modes, its gradients and all global state as it
    found them.
    """

    def __init__(self, package: Package) -> None:
        self.package = package
        self._split = splitter(package.model.config.word_splitter)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
    ) -> Extractor:
        """The model in a folder, or of that name on the Hugging Face hub.

        device: where to run, by default the GPU if there is one. dtype: of the weights, by default float32.

        Raises:
            CheckpointError: there is no such model, or it is damaged or of another kind.
            ConfigError: the device or the dtype is none.

        """
        package = load_package(local_folder(name, revision=revision))
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

    def extract(self, text: str, labels: Sequence[str], options: DecodeOptions = DecodeOptions()) -> list[Entity]:
        """The entities of one text, in its order. A text of any length is read whole, in overlapping windows.

        Raises:
            DataError: `text` is not a string, or a label is empty or not a string.

        """
        return self.extract_many([text], labels, options)[0]

    def extract_many(
        self,
        texts: Sequence[str],
        labels: Sequence[str] | Sequence[Sequence[str]],
        options: DecodeOptions = DecodeOptions(),
    ) -> list[list[Entity]]:
        """The entities of each text, in the texts' order. `labels` are one list for all, or one list per text.

        Raises:
            DataError: a text or label is not a string, a label is empty, or there are not as many lists as texts.

        """
        if isinstance(texts, str):
            raise DataError("`texts` must be a list of strings, but is one string. Use `extract` for a single text.")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"texts[{index}] must be a string, but is {text!r} ({type(text).__name__}).")
        asked = _labels_per_text(labels, len(texts))
        words = [self.split_words(text) for text in texts]
        rows = [Row(tuple(w.text for w in ws), names) for ws, names in zip(words, asked, strict=True)]
        return [
            [_entity(span, text, ws) for span in spans]
            for text, ws, spans in zip(texts, words, self.find_spans(rows, options), strict=True)
        ]

    def find_spans(self, rows: Sequence[Row], options: DecodeOptions = DecodeOptions()) -> list[list[ScoredSpan]]:
        """The spans of each row of words, in the words' order. This is what `extract_many` and evaluation share."""
        found: list[list[ScoredSpan]] = [[] for _ in rows]
        questions = [question for index, row in enumerate(rows) for question in self._questions(index, row)]
        for batch in _batches(questions, self._batch_tokens()):
            for question, spans in zip(batch, self._score(batch, options), strict=True):
                window = question.window
                found[question.row] += [
                    span.shifted(window.start)
                    for span in spans
                    if window.own_start <= span.start + window.start < window.own_end
                ]
        return [resolve(spans, options) for spans in found]

    def split_words(self, text: str) -> tuple[Word, ...]:
        """The words of `text` that the model can see: without those that its tokenizer finds nothing in."""
        words = self._split(text)
        seen = self.encoder.subtokens.ids([word.text for word in words])
        return tuple(word for word, ids in zip(words, seen, strict=True) if ids)

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
            room = self.encoder.room(labels)
            for window in plan_windows(costs, max_words=config.max_words, max_cost=room, overlap=overlap):
                words = row.words[window.start : window.end]
                prompt = len(self.encoder.prompt(labels).ids)
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

    def _score(self, batch: Sequence[_Question], options: DecodeOptions) -> list[list[ScoredSpan]]:
        encoded = self.encoder.encode([question.asked for question in batch])
        with modes.inference(self.model):
            scores = self.model(encoded.to(self.model.device))
            return candidates(scores, [question.asked.labels for question in batch], options)

    def _batch_tokens(self) -> int:
        return _BATCH_TOKENS.get(self.model.device.type, _BATCH_TOKENS_ELSEWHERE)


@dataclass(frozen=True, slots=True)
class _Question:
    """One forward's worth of a row: `asked` are the words of `window` and a group of labels; cost in subtokens."""

    row: int
    window: Window
    asked: Row
    cost: int


def _batches(questions: Iterable[_Question], max_tokens: int) -> Iterator[list[_Question]]:
    """Questions of similar cost together, longest first, so that memory peaks at once and little is padding."""
    batch: list[_Question] = []
    for question in sorted(questions, key=lambda question: -question.cost):
        if batch and (len(batch) == _BATCH_ROWS or (len(batch) + 1) * batch[0].cost > max_tokens):
            yield batch
            batch = []
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


def _entity(span: ScoredSpan, text: str, words: Sequence[Word]) -> Entity:
    start, end = words[span.start].start, words[span.end - 1].end
    return Entity(start, end, text[start:end], span.label, span.score)


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


__all__ = ["CheckpointError", "Extractor", "checked_labels"]
