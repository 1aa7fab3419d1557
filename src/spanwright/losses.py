"""Losses: scores and targets to a sum and what it is a sum over. Pure functions; no part of the network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spanwright.config import LossOptions
from spanwright.tensors import LossSum, SpanScores, Targets

_CEILING = 13.815511  # -log(1e-6): published losses keep probabilities above 1e-6 before the logarithm


def span_loss(scores: SpanScores, targets: Targets, options: LossOptions = LossOptions()) -> LossSum:
    """The loss over all real cells (span within its row, label asked) of a batch.

    Binary cross-entropy of (B, L, K, C) logits in float32, or focal loss (Lin et al., 2017, with the published margin
    and smoothing). With reduction "sum" it is the published objective to the last detail: there a cell's logarithm
    ends at 13.8, beyond which it has no gradient. The mean has no such ceiling: a positive that a run has lost sight
    of could never come back.
    """
    real = scores.cell_mask()
    cells = cell_loss(scores.logits.float(), targets.values, options)
    return LossSum(cells.masked_fill(~real, 0.0).sum(), real.sum())


def cell_loss(logits: Tensor, values: Tensor, options: LossOptions) -> Tensor:
    """The loss of each cell, of the shape of `logits`; `values` in {0, 1}."""
    smoothing = options.label_smoothing
    target = values.to(logits.dtype) * (1 - smoothing) + 0.5 * smoothing
    positive = torch.sigmoid(logits)
    surprise, false_alarm = -F.logsigmoid(logits), -F.logsigmoid(-logits)
    if options.prob_margin > 0:
        positive_shifted = (positive - options.prob_margin).clamp(0, 1)
        false_alarm = -torch.log1p(-positive_shifted.clamp_max(1 - 1e-6))
    else:
        positive_shifted = positive
    if options.reduction == "sum":
        surprise, false_alarm = surprise.clamp_max(_CEILING), false_alarm.clamp_max(_CEILING)
    loss = target * surprise + (1 - target) * false_alarm
    if options.focal_gamma > 0:
        agreement = positive * target + (1 - positive_shifted) * (1 - target)
        loss = loss * (1 - agreement) ** options.focal_gamma
    if options.focal_alpha >= 0:
        loss = loss * (options.focal_alpha * target + (1 - options.focal_alpha) * (1 - target))
    return loss
