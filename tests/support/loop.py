"""A training loop written by hand, as users write them, and what shows that dropout was on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from spanwright.encoding import Row, encode_targets
from spanwright.entities import Span
from spanwright.extractor import Extractor
from spanwright.losses import span_loss
from support.tiny import LABELS, SENTENCES

GOLD = [[Span(0, 2, "person"), Span(3, 5, "person")], [Span(5, 7, "organisation")]]


def training_batch(extractor: Extractor):
    """Two rows and their targets."""
    rows = [Row(tuple(SENTENCES[1].split()), LABELS), Row(tuple(SENTENCES[2].split()), LABELS)]
    return extractor.encoder.encode(rows), encode_targets(GOLD, rows, max_width=extractor.model.config.max_width)


def still(model: nn.Module) -> None:
    """Without dropout anywhere, in either library's model."""
    for module in model.modules():
        for name in ("p", "dropout", "dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


@contextmanager
def dropouts_seen(model: nn.Module) -> Iterator[list[tuple[bool, bool]]]:
    """Call by call, whether a dropout of the model dropped, and whether gradients were recorded."""
    seen: list[tuple[bool, bool]] = []
    hooks = [
        module.register_forward_hook(lambda m, _, __: seen.append((m.training, torch.is_grad_enabled())))
        for module in model.modules()
        if isinstance(module, nn.Dropout) and module.p > 0
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def by_hand(
    extractor: Extractor,
    *,
    steps: int = 3,
    before: Callable[[], object] = lambda: None,
    between: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
    seed: int = 0,
    device: str = "cpu",
) -> list[float]:
    """A plain PyTorch loop. `between` runs before each step, `before` and `after` once."""
    torch.manual_seed(seed)
    model = extractor.model
    batch, targets = training_batch(extractor)
    batch, targets = batch.to(device), targets.to(device)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    before()
    losses = []
    for _ in range(steps):
        between()
        optimizer.zero_grad()
        loss = span_loss(model(batch), targets)
        (loss.total / loss.count).backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    after()
    return losses
