"""Every architecture on CUDA: the CPU's answers, and a loop by hand with a prediction before each backward.

    PYTHONPATH=src:tests python tests/gpu/architectures_on_gpu.py

Prints one line for each architecture and family and exits with 1 if any is wrong.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from spanwright import DecodeOptions, Span, SpanRelation, modes
from spanwright.encoding import Row
from spanwright.losses import span_loss
from support.tiny import ARCHITECTURES, FAMILIES, LABELS, RELATIONS, SENTENCES, tiny_extractor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GOLD = [[Span(0, 2, "person"), Span(3, 5, "person")], [Span(5, 7, "country")]]
RELATED = [[SpanRelation(*GOLD[0], "met in")], []]


def look(family: str, changes: dict) -> tuple[float, int, bool]:
    """The largest difference of the scores, the errors of the loop by hand, and whether dropout was always on."""
    extractor = tiny_extractor(family, **changes)
    asked = RELATIONS if extractor.model.config.finds_relations else ()
    rows = [Row(tuple(SENTENCES[index].split()), LABELS, asked) for index in (1, 2)]
    batch, targets = extractor.encoder.encode_with_targets(rows, GOLD, RELATED if asked else (), seed="")
    with modes.inference(extractor.model):
        expected = scores(extractor.model(batch))
        extractor.model.to(DEVICE)
        difference = (scores(extractor.model(batch.to(DEVICE))) - expected).abs()
    extractor.model.train()
    dropping: list[bool] = []

    def note(module, _, __):
        if torch.is_grad_enabled():
            dropping.append(module.training)

    for module in extractor.model.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            module.register_forward_hook(note)
    optimizer = torch.optim.AdamW(extractor.model.parameters(), lr=1e-4)
    errors = 0
    for _ in range(3):
        extractor.extract(SENTENCES[0], LABELS, DecodeOptions(threshold=0.4))  # other libraries leave the mode behind
        try:
            span_loss(extractor.model(batch.to(DEVICE)), targets.to(DEVICE)).total.backward()
            optimizer.step()
        except RuntimeError as error:
            print(error)
            errors += 1
        optimizer.zero_grad()
    return difference.max().item(), errors, bool(dropping) and all(dropping)


def scores(found) -> torch.Tensor:
    """All probabilities of a batch, on the CPU."""
    cells = [cells.logits if cells.are_probabilities else torch.sigmoid(cells.logits) for cells in found.cells()]
    return torch.cat([each.flatten() for each in cells]).cpu()


def main() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wrong = 0
    print(f"{DEVICE}, torch {torch.__version__}: difference of scores from the CPU, errors in 3 steps, dropout on")
    cases = [("bert", name) for name in ARCHITECTURES]
    others = ("markerV0", "token with head", "bi-encoder, fused", "relations, mlp", "relations, token")
    cases += [(family, name) for family in FAMILIES[1:] for name in others]
    for family, name in cases:
        difference, errors, dropped = look(family, ARCHITECTURES[name])
        right = difference < 1e-4 and errors == 0 and dropped
        wrong += not right
        print(f"{family:12} {name:18} {difference:.1e} {errors} {dropped} {'' if right else 'WRONG'}")
    print(f"{len(cases)} cases, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
