"""Every architecture on CUDA: the CPU's answers, a loop by hand with a prediction before each backward, learning.

    PYTHONPATH=src:tests python tests/gpu/architectures_on_gpu.py

Each case in a process of its own, as many at a time as there are cores. Prints one line for each architecture and
family, and exits with 1 if any is wrong.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from tempfile import TemporaryDirectory

import torch
from torch import nn

from spanwright import DecodeOptions, Extractor, Span, SpanRelation, evaluate, modes, train
from spanwright.checkpoint.package import draw_head
from spanwright.encoding import Row
from spanwright.losses import span_loss
from spanwright.model.gliner import drawn_from
from support.data import BY_HEART, eight_related_sentences, eight_sentences
from support.loop import still
from support.tiny import ARCHITECTURES, FAMILIES, LABELS, RELATIONS, SENTENCES, tiny_extractor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GOLD = [[Span(0, 2, "person"), Span(3, 5, "person")], [Span(5, 7, "country")]]
OF_EVERY_FAMILY = ("markerV0", "token with head", "bi-encoder, fused", "relations, mlp", "relations, token")
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


def learn(family: str, changes: dict) -> tuple[float, int]:
    """F1 on eight sentences that were learnt, of relations too where there are any, and the step of the best."""
    extractor = tiny_extractor(family, **changes)
    related = extractor.model.config.finds_relations
    still(extractor.model)
    with drawn_from(0):
        draw_head(extractor.model)
    examples = eight_related_sentences() if related else eight_sentences()
    with TemporaryDirectory() as folder:
        # encoders with absolute positions need longer to see that a marker means the label after it
        patient = replace(BY_HEART, validation=replace(BY_HEART.validation, patience=10))
        result = train(extractor, examples, examples, output=f"{folder}/run", config=patient, device=DEVICE)
        back = Extractor.from_pretrained(f"{folder}/run", device=DEVICE)
        return evaluate(back, examples).headline_f1, result.best_step


def case(family: str, name: str) -> tuple[str, bool]:
    """A line of the table, and whether all of it is right."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    difference, errors, dropped = look(family, ARCHITECTURES[name])
    f1, step = learn(family, ARCHITECTURES[name])
    right = difference < 1e-4 and errors == 0 and dropped and f1 == 1.0
    return f"{family:12} {name:22} {difference:.1e} {errors} {dropped!s:5} F1 {f1:.2f} at step {step:3}", right


def main() -> None:
    print(f"{DEVICE}, torch {torch.__version__}: difference of scores from the CPU, errors in 3 steps, dropout on,")
    print("F1 on eight sentences after training, and the step of the best")
    cases = [("deberta-v2", name) for name in ARCHITECTURES]
    cases += [(family, name) for family in FAMILIES if family != "deberta-v2" for name in OF_EVERY_FAMILY]
    wrong = 0
    with ProcessPoolExecutor(max(os.cpu_count() or 2, 2) - 1, mp_context=get_context("spawn")) as pool:
        for line, right in pool.map(case, *zip(*cases, strict=True)):
            wrong += not right
            print(line, "" if right else "WRONG", flush=True)
    print(f"{len(cases)} cases, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
