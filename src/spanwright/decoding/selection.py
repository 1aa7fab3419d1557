"""What lies above its threshold, selected on the device and brought to the host without stopping the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spanwright.config import DEFAULT_THRESHOLD, DecodeOptions
from spanwright.pairs import Pairs, best_pairs, pairs
from spanwright.tensors import Scores, SpanScores, TokenScores

_ROOM = 64  # spans of a row, on average, that a batch on a device has room for; with more it is selected again

Labels = Sequence[Sequence[str]]


class Selection:
    """Spans on their way to the host; `arrays` waits for them."""

    def __init__(self, scores: Scores, labels: Labels, options: DecodeOptions, *, whole: bool = True) -> None:
        """Selects at once where the host computes itself or the scores are of a token model; else asynchronously.

        whole: also spans that `resolve` can never keep; a token model may have a million of them, and a span model ten
            for each that it keeps.
        """
        self._asked = (scores, labels, options)
        self._whole = whole or options.multi_label or options.overlap != "flat"
        self._copy: Tensor | None = None
        self._found: Pairs | None = None
        if isinstance(scores, SpanScores) and scores.logits.is_cuda:
            room = _ROOM * len(labels)
            self._copy = _bounded(scores, labels, options, room, whole=self._whole).to("cpu", non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()
        else:
            self._found = _found(scores, labels, options, self._whole)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Row, first word, last word, column of the label (integers) and score of each span, all (N,)."""
        if self._copy is not None:
            self._done.synchronize()
            table = self._copy.numpy()
            count, room = int(table[0]), len(table) // 2
            if count <= room:
                row, first, width, column = np.unravel_index(
                    table[1 : 1 + count].astype(np.int64), tuple(self._asked[0].logits.shape)
                )
                return row, first, first + width, column, table[1 + room : 1 + room + count]
        found = self._found or _found(*self._asked, self._whole)
        # whole numbers below 2**53 and float32 scores are exact in a double: one copy instead of five
        table = (
            torch.stack([found.row, found.first, found.last, found.column, found.score.detach().double()]).cpu().numpy()
        )
        return (*table[:4].astype(np.int64), table[4])


def _found(scores: Scores, labels: Labels, options: DecodeOptions, whole: bool) -> Pairs:
    if isinstance(scores, SpanScores):
        values, kept = _of_spans(scores, labels, options, whole=whole)
        row, first, width, column = kept.nonzero(as_tuple=True)
        return Pairs(row, first, first + width, column, values[kept])
    if scores.candidates is not None:
        return _of_head(scores, labels, options)
    thresholds = _thresholds(labels, scores.logits.shape[2], scores.logits, options)
    return pairs(scores, thresholds) if whole else best_pairs(scores, thresholds)


def _bounded(scores: SpanScores, labels: Labels, options: DecodeOptions, room: int, *, whole: bool = True) -> Tensor:
    """The number of spans found, then the flat indices of the first `room` of them, then their scores.

    Of a fixed size, so that nothing has to wait until the number is known.
    """
    values, kept = (each.flatten() for each in _of_spans(scores, labels, options, whole=whole))
    place = kept.cumsum(0)
    slot = torch.where(kept, (place - 1).clamp_max(room), room)
    index = slot.new_zeros(room + 1).scatter_(0, slot, torch.arange(len(slot), device=slot.device))[:room]
    return torch.cat([place[-1:].double(), index.double(), values[index].double()])


def _of_spans(
    scores: SpanScores, labels: Labels, options: DecodeOptions, *, whole: bool = True
) -> tuple[Tensor, Tensor]:
    """Scores (B, L, K, C), and which are real and above their threshold."""
    values = torch.sigmoid(scores.logits.detach().float())
    thresholds = _thresholds(labels, values.shape[-1], values, options)
    if isinstance(thresholds, Tensor):
        thresholds = thresholds.unsqueeze(2)
    kept = scores.cell_mask() & (values > thresholds)
    return values, kept if whole else kept & _unbeaten(values.masked_fill(~kept, -1.0))


def _unbeaten(values: Tensor) -> Tensor:
    """(B, L, K, C) False for spans that hold one of a higher score, itself under another label or a part of it.

    Where no two entities may share a word, such a span is never kept: what keeps out the inner one has a word of the
    outer one too, and comes before it.
    """
    best = values.amax(dim=-1)
    inner = best[..., 0]  # the best of all spans within [l, l + width]
    standing = [torch.ones_like(inner, dtype=torch.bool)]
    for width in range(1, best.shape[2]):
        held = torch.maximum(inner, F.pad(inner[:, 1:], (0, 1), value=-1.0))
        standing.append(best[..., width] >= held)
        inner = torch.maximum(best[..., width], held)
    return (values == best.unsqueeze(-1)) & torch.stack(standing, dim=2).unsqueeze(-1)


def _of_head(scores: TokenScores, labels: Labels, options: DecodeOptions) -> Pairs:
    assert scores.candidates is not None
    assert scores.head_logits is not None
    values = torch.sigmoid(scores.head_logits.detach().float())
    real = scores.candidates.mask.unsqueeze(-1) & scores.label_mask.unsqueeze(1)
    kept = real & (values > _thresholds(labels, values.shape[-1], values, options))
    row, place, column = kept.nonzero(as_tuple=True)
    first, last = scores.candidates.bounds[row, place].unbind(dim=-1)
    return Pairs(row, first, last, column, values[kept])


def _thresholds(labels: Labels, columns: int, like: Tensor, options: DecodeOptions) -> Tensor | float:
    """One threshold, or (B, 1, C) of them."""
    if not isinstance(options.threshold, Mapping):
        return options.least_threshold()
    table = [
        [options.threshold_of(label) for label in names] + [DEFAULT_THRESHOLD] * (columns - len(names))
        for names in labels
    ]
    return torch.tensor(table, device=like.device).reshape(len(labels), 1, columns)
