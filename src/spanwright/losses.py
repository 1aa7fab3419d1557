"""Losses: scores and targets to a sum and what it is a sum over. Pure functions; no part of the network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spanwright.tensors import LossSum, Scores, Targets
from spanwright.train_config import LossOptions

_LEAST = 1e-6  # published losses keep probabilities above it before the logarithm
_LEAST_GRADIENT = 1e-30


def span_loss(scores: Scores, targets: Targets, options: LossOptions = LossOptions()) -> LossSum:
    """The loss over all real cells (span or word within its row, label asked) of a batch.

    Binary cross-entropy of the logits in float32, or focal loss (Lin et al., 2017, with the published margin
    and smoothing). With reduction "sum" it is the published objective to the last detail: there
    probabilities below 1e-6 have no gradient. The mean is taken of logits, without that floor: a positive that a run
    has lost sight of could never come back.
    """
    total = scores.logits.new_zeros((), dtype=torch.float32)
    count = torch.zeros((), dtype=torch.long, device=total.device)
    weights = {
        "entity": options.entity_weight,
        "head": options.head_weight,
        "adjacency": options.adjacency_weight,
        "relation": options.relation_weight,
    }
    for cells in scores.cells():
        logits = cells.logits.float().view(cells.logits.shape)  # another tensor, for the hook
        if logits.requires_grad and logits.device.type == "cpu":
            logits.register_hook(_flushed)  # type: ignore[no-untyped-call]
        loss = cell_loss(logits, targets.of(cells.term), options, are_probabilities=cells.are_probabilities)
        total = total + weights[cells.term] * loss.masked_fill(~cells.real, 0.0).sum()
        count = count + cells.real.sum()
    return LossSum(total, count)


def cell_loss(logits: Tensor, values: Tensor, options: LossOptions, *, are_probabilities: bool = False) -> Tensor:
    """The loss of each cell, of the shape of `logits`; `values` in {0, 1}.

    are_probabilities: `logits` are sigmoids already (attention weights have no logits).
    """
    target = values.to(logits.dtype)
    if options.label_smoothing > 0:
        target = target * (1 - options.label_smoothing) + 0.5 * options.label_smoothing
    if not are_probabilities and _is_plain(options):  # the same in a single step, which is what most runs take
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    positive = logits if are_probabilities else torch.sigmoid(logits)
    shifted = (positive - options.prob_margin).clamp(0, 1) if options.prob_margin > 0 else positive
    if options.reduction == "sum" or are_probabilities:
        surprise, false_alarm = -positive.clamp_min(_LEAST).log(), -(1 - shifted).clamp_min(_LEAST).log()
    elif options.prob_margin > 0:
        surprise, false_alarm = -F.logsigmoid(logits), -(1 - shifted).clamp_min(_LEAST).log()
    else:
        surprise, false_alarm = -F.logsigmoid(logits), -F.logsigmoid(-logits)
    loss = target * surprise + (1 - target) * false_alarm
    if options.focal_gamma > 0:
        agreement = positive * target + (1 - shifted) * (1 - target)
        loss = loss * (1 - agreement) ** options.focal_gamma
    if options.focal_alpha >= 0:
        loss = loss * (options.focal_alpha * target + (1 - options.focal_alpha) * (1 - target))
    return loss


def _is_plain(options: LossOptions) -> bool:
    weighted = options.focal_gamma > 0 or options.focal_alpha >= 0 or options.prob_margin > 0
    return options.reduction == "mean" and not weighted


def _flushed(gradient: Tensor) -> Tensor:
    """Without numbers near the least that a float32 can hold: a processor takes up to a hundred times as long for each.

    They come of cells that are long decided (logits beyond -70).
    """
    return gradient.masked_fill(gradient.abs() < _LEAST_GRADIENT, 0.0)
