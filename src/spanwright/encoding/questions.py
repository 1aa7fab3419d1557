"""From rows of words to what the network is asked at a time: windows, groups of labels, batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spanwright.encoding.batch import BatchEncoder, TokenizedRow
from spanwright.errors import DataError
from spanwright.text.windows import Window, plan_windows

_BATCH_ROWS = 1024
_BATCH_SCORES = 1 << 25  # 128 MiB in float32
_BATCH_PAIRS = 1 << 25  # of subtokens: some attentions keep a score for each, in every head
_LONGEST_PROMPT = 1024  # subtokens, where positions have no end: attention grows with the square


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(TokenizedRow):
    """One forward's worth of row `index`: the words of `window` and a group of labels; cost in subtokens.

    alone: whether nothing else is asked about the row.
    """

    index: int
    window: Window
    cost: int
    alone: bool


def questions_of(encoder: BatchEncoder, index: int, row: TokenizedRow) -> list[Question]:
    """What to ask the network about row `index`: each window of it, with each group of labels that fits a prompt.

    Raises:
        DataError: as `label_groups`.

    """
    if not row.ids or not row.labels:
        return []
    config = encoder.config
    overlap = min(max(2 * config.max_width, config.max_words // 8), config.max_words // 2)
    costs = list(map(len, row.ids))
    questions = []
    groups = label_groups(encoder, row.labels, row.relations, room_for=sum(costs))
    for labels in groups:
        prompt = len(encoder.prompt(labels, row.relations).ids)
        room = encoder.room(labels, row.relations)
        windows = plan_windows(costs, max_words=config.max_words, max_cost=room, overlap=overlap)
        alone = len(groups) == len(windows) == 1
        for window in windows:
            part = slice(window.start, window.end)
            questions.append(
                Question(
                    ids=row.ids[part],
                    labels=labels,
                    relations=row.relations,
                    index=index,
                    window=window,
                    cost=prompt + sum(costs[part]),
                    alone=alone,
                )
            )
    return questions


def label_groups(
    encoder: BatchEncoder, labels: tuple[str, ...], relations: tuple[str, ...] = (), *, room_for: int | None = None
) -> list[tuple[str, ...]]:
    """`labels` whole, or in groups whose prompts leave half of the transformer's positions to the words.

    They are whole, too, where the prompt leaves room for that many subtokens of words. Without an end of positions, a
    prompt may have as many subtokens as `_LONGEST_PROMPT`.

    Raises:
        DataError: a label alone does not fit, or labels and relations do not: relations between two groups' entities
            would be lost.

    """
    limit = encoder.max_positions
    most = _LONGEST_PROMPT if limit is None else limit // 2
    if len(encoder.prompt(labels, relations).ids) <= most:
        return [labels]
    if limit is None and relations:
        return [labels]
    room = encoder.room(labels, relations)
    if room is not None and room_for is not None and room_for <= room:
        return [labels]
    if relations:
        raise DataError(
            f"Labels and relations asked together must fit half of the model's {limit} positions, but these "
            f"{len(labels)} labels and {len(relations)} relations do not. Ask for fewer at a time."
        )
    room_for_labels = most - len(encoder.prompt(()).ids)
    groups: list[tuple[str, ...]] = []
    group: list[str] = []
    taken = 0
    for label, ids in zip(labels, encoder.subtokens.ids(labels), strict=True):
        cost = 1 + len(ids)  # with its marker
        if limit is not None and cost > room_for_labels:
            raise DataError(f"A label must fit half of the model's {limit} positions, but {label[:60]!r}... does not.")
        if group and taken + cost > room_for_labels:
            groups.append(tuple(group))
            group, taken = [], 0
        group.append(label)
        taken += cost
    return [*groups, tuple(group)]


def batches_of(questions: Iterable[Question], *, max_tokens: int, max_width: int) -> Iterator[list[Question]]:
    """Questions of similar cost together, longest first, so that memory peaks at once and little is padding.

    A batch keeps below `max_tokens` subtokens, and below fixed numbers of scores (words times labels times widths) and
    of pairs of subtokens.
    """
    batch: list[Question] = []
    words = labels = 0
    for question in sorted(questions, key=lambda question: -question.cost):
        words, labels = max(words, len(question.ids)), max(labels, len(question.labels))
        rows = len(batch) + 1
        full = len(batch) == _BATCH_ROWS or rows * words * labels * max_width > _BATCH_SCORES
        length = batch[0].cost if batch else question.cost
        if batch and (full or rows * length > max_tokens or rows * length**2 > _BATCH_PAIRS):
            yield batch
            batch, words, labels = [], len(question.ids), len(question.labels)
        batch.append(question)
    if batch:
        yield batch
