"""Every architecture on CUDA: the CPU's answers, and a loop by hand with a prediction before each backward.

    PYTHONPATH=src:tests python tests/gpu/architectures_on_gpu.py

Prints one line for each architecture and family and exits with 1 if any is wrong.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from spanwright import DecodeOptions, Span, modes
from spanwright.encoding import Row
from spanwright.losses import span_loss
from support.tiny import ARCHITECTURES, FAMILIES, LABELS, SENTENCES, tiny_extractor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS = [Row(tuple(SENTENCES[1].split()), LABELS), Row(tuple(SENTENCES[2].split()), LABELS)]
GOLD = [[Span(0, 2, "person")], [Span(5, 7, "country")]]


def look(family: str, changes: dict) -> tuple[float, int, bool]:
    """The largest difference of the scores, the errors of the loop by hand, and whether dropout was always on."""
    extractor = tiny_extractor(family, **changes)
    batch, targets = extractor.encoder.encode_with_targets(ROWS, GOLD, seed="")
    with modes.inference(extractor.model):
        expected = extractor.model(batch).logits
        extractor.model.to(DEVICE)
        difference = (torch.sigmoid(extractor.model(batch.to(DEVICE)).logits.cpu()) - torch.sigmoid(expected)).abs()
    extractor.model.train()
    dropping: list[bool] = []

    def note(module, _, __):
        if torch.is_grad_enabled():
            dropping.append(module.training)

    for module in extractor.model.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.register_forward_hook(
                lambda m, _, __: dropping.append(m.training) if torch.is_grad_enabled() else None
            )
    optimizer = torch.optim.AdamW(extractor.model.parameters(), lr=1e-4)
    errors = 0
    for _ in range(3):
        extractor.extract(
            SENTENCES[0], LABELS, DecodeOptions(threshold=0.4)
        )  # leaves the mode behind in other libraries
        try:
            span_loss(extractor.model(batch.to(DEVICE)), targets.to(DEVICE)).total.backward()
            optimizer.step()
        except RuntimeError as error:
            print(error)
            errors += 1
        optimizer.zero_grad()
    return difference.max().item(), errors, bool(dropping) and all(dropping)


def main() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wrong = 0
    print(f"{DEVICE}, torch {torch.__version__}: difference of scores from the CPU, errors in 3 steps, dropout on")
    cases = [("bert", name) for name in ARCHITECTURES]
    cases += [
        (family, name) for family in FAMILIES[1:] for name in ("markerV0", "token with head", "bi-encoder, fused")
    ]
    for family, name in cases:
        difference, errors, dropped = look(family, ARCHITECTURES[name])
        right = difference < 1e-4 and errors == 0 and dropped
        wrong += not right
        print(f"{family:12} {name:18} {difference:.1e} {errors} {dropped} {'' if right else 'WRONG'}")
    print(f"{len(cases)} cases, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
