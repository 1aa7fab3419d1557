"""The mode contract on a GPU: the original failure with gliner 0.2.29, then the same user code with Spanwright.

    PYTHONPATH=src:tests python tests/gpu/modes_on_gpu.py [--json PATH]

Needs no pytest. gliner's rows say "not installed" without it; without a GPU the rows that need one are left out. The
exit code is 1 if an expectation fails.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from spanwright import Example, Span, evaluate, modes
from spanwright.encoding import Row
from spanwright.losses import span_loss
from spanwright.model.lstm import GradSafeLSTM
from support.loop import by_hand, dropouts_seen, training_batch
from support.tiny import LABELS, SENTENCES, tiny_extractor
from support.watch import set_flags, snapshot

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXAMPLES = [Example.from_words(SENTENCES[1].split(), [Span(0, 2, "person")])]
CUDNN = "cudnn RNN backward can only be called in training mode"

Result = tuple[bool, str]


def on_device(**changes):
    extractor = tiny_extractor(**changes)
    extractor.model.to(DEVICE)
    return extractor


def gliner_fails() -> Result:
    """`train()`, `predict_entities`, forward, backward: what users write."""
    try:
        from gliner import GLiNER
    except ImportError:
        return True, "gliner is not installed"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_extractor().save(Path(folder) / "model")
        peer = GLiNER.from_pretrained(f"{folder}/model", local_files_only=True).to(DEVICE)
        collate = peer.data_collator_class(peer.config, data_processor=peer.data_processor, prepare_labels=True)
        words = SENTENCES[1].split()
        batch = collate([{"tokenized_text": words, "ner": [[0, 1, "person"]], "ner_labels": list(LABELS)}])
        batch = {key: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        peer.train()
        peer.predict_entities(SENTENCES[0], list(LABELS))
        try:
            peer.model(**batch).loss.backward()
        except RuntimeError as error:
            return CUDNN in str(error), f"raises: {str(error)[:70]}"
        return DEVICE == "cpu", "no error: it trained in evaluation mode"


def spanwright_trains(layers: int, precision: str) -> Result:
    """The same: a loop by hand with predictions and evaluations between its steps; nobody calls `train()`."""
    extractor = on_device(num_rnn_layers=layers, rnn_dropout=0.2, dropout=0.3)

    def between():
        extractor.extract(SENTENCES[0], LABELS)
        evaluate(extractor, EXAMPLES)

    dtype = torch.bfloat16
    with torch.autocast(DEVICE, dtype, enabled=precision == "bf16"), dropouts_seen(extractor.model) as seen:
        losses = by_hand(extractor, steps=20, between=between, device=DEVICE)
    training = [dropped for dropped, recording in seen if recording]
    observing = [dropped for dropped, recording in seen if not recording]
    right = all(training) and not any(observing) and len(losses) == 20 and losses[-1] < losses[0]
    return (
        right,
        f"20 steps, dropout on in {sum(training)} of {len(training)} calls, off in all {len(observing)} others",
    )


def saliency_is_right() -> Result:
    """Gradients of the logits by the subtoken embeddings, against the CPU; ten times the same."""
    found = {}
    for device in ("cpu", DEVICE):
        extractor = tiny_extractor(dropout=0.3)
        extractor.model.to(device)
        batch, _ = training_batch(extractor)
        table = extractor.model.backbone.transformer.embeddings.word_embeddings.weight
        runs = []
        for _ in range(10):
            extractor.model.zero_grad()
            with modes.saliency(extractor.model):
                extractor.model(batch.to(device)).logits.square().sum().backward()
            runs.append(table.grad.detach().cpu().clone())
        found[device] = runs
    difference = (found["cpu"][0] - found[DEVICE][0]).norm() / found["cpu"][0].norm()
    spread = max((run - found[DEVICE][0]).abs().max().item() for run in found[DEVICE])
    size = found[DEVICE][0].abs().max().item()
    return bool(
        difference < 1e-4 and spread <= 1e-5 * size
    ), f"{difference:.1e} from the CPU, spread {spread / size:.0e}"


def bare_lstm(layers: int, packed: bool, dtype: torch.dtype) -> Result:
    """`nn.LSTM` and ours in evaluation mode: the same output bit for bit, a backward only with ours."""
    torch.manual_seed(0)
    shape = {"num_layers": layers, "bidirectional": True, "batch_first": True, "dropout": 0.5 * (layers > 1)}
    plain, safe = nn.LSTM(16, 8, **shape), GradSafeLSTM(16, 8, **shape)
    safe.load_state_dict(plain.state_dict())
    words = torch.randn(3, 7, 16).to(DEVICE, dtype)
    given = pack_padded_sequence(words, torch.tensor([7, 5, 2]), batch_first=True) if packed else words
    outputs, errors = [], []
    for lstm in (plain, safe):
        lstm.to(DEVICE, dtype)
        modes.rest(lstm)
        output = lstm(given)[0]
        output = output.data if packed else output
        outputs.append(output.detach())
        try:
            output.float().sum().backward()
            errors.append("")
        except RuntimeError as error:
            errors.append(str(error))
    equal = torch.equal(*outputs)
    raised = CUDNN in errors[0] or DEVICE == "cpu"
    told = "nn.LSTM raises" if errors[0] else "nn.LSTM does not raise"
    return equal and raised and errors[1] == "", f"{told}, ours does not; outputs equal: {equal}"


def grid() -> Result:
    """Entry points, faults and flags on the GPU: everything is as it was."""
    extractor = on_device(dropout=0.3)
    model = extractor.model
    batch = extractor.encoder.encode([Row(tuple(SENTENCES[5].split()), LABELS)]).to(DEVICE)
    inside = model._scores

    def fails(*_):
        raise KeyboardInterrupt

    def scoped(scope: Callable) -> Callable[[], object]:
        def call():
            with scope(model):
                return model(batch)

        return call

    calls = [
        scoped(modes.inference),
        scoped(modes.saliency),
        lambda: extractor.extract(SENTENCES[5], LABELS),
        lambda: evaluate(extractor, EXAMPLES),
    ]
    parts = ("", "backbone", "context", "labels", "spans", "spans.out_project")
    cases = wrong = 0
    for bits, call, broken, cast in itertools.product(
        itertools.product((False, True), repeat=len(parts)), calls, (False, True), (False, True)
    ):
        owner = dict(zip(parts, bits, strict=True))
        names = [name for name, _ in model.named_modules()]
        flags = {n: owner[max((p for p in parts if p in ("", n) or n.startswith(p + ".")), key=len)] for n in names}
        set_flags(model, flags)
        model._scores = fails if broken else inside
        with torch.autocast(DEVICE, torch.bfloat16, enabled=cast):
            before = snapshot(extractor)
            with contextlib.suppress(KeyboardInterrupt):
                call()
            wrong += snapshot(extractor) != before
        cases += 1
    return wrong == 0 and cases >= 1000, f"{cases} cases, {wrong} violations"


def checkpointing() -> Result:
    """Gradients with gradient checkpointing against those without, same dropout masks."""
    found = []
    for on in (False, True):
        extractor = on_device(dropout=0.3)
        if on:
            extractor.model.backbone.transformer.gradient_checkpointing_enable({"use_reentrant": False})
        batch, targets = training_batch(extractor)
        torch.manual_seed(0)
        span_loss(extractor.model(batch.to(DEVICE)), targets.to(DEVICE)).total.backward()
        found.append(torch.cat([p.grad.flatten() for p in extractor.model.parameters() if p.grad is not None]))
    difference = ((found[0] - found[1]).norm() / found[0].norm()).item()
    return difference < 1e-5, f"relative difference {difference:.1e}"


def random_state() -> Result:
    """Two LSTM layers with dropout between them: a restored random state repeats the next forward."""
    extractor = on_device(num_rnn_layers=2, rnn_dropout=0.5, dropout=0.3)
    batch, _ = training_batch(extractor)
    batch = batch.to(DEVICE)
    get = torch.cuda.get_rng_state if DEVICE == "cuda" else torch.random.get_rng_state
    put = torch.cuda.set_rng_state if DEVICE == "cuda" else torch.random.set_rng_state
    extractor.model(batch)
    state = get()
    first = extractor.model(batch).logits
    second = extractor.model(batch).logits
    put(state)
    return torch.equal(first, extractor.model(batch).logits) and not torch.equal(first, second), "repeats bit for bit"


def rows() -> list[tuple[str, Callable[[], Result]]]:
    listed: list[tuple[str, Callable[[], Result]]] = [("gliner 0.2.29: predict, then backward", gliner_fails)]
    for layers, precision in itertools.product((1, 2), ("fp32", "bf16")):
        listed.append(
            (
                f"Spanwright: the same, {layers} LSTM layer(s), {precision}",
                lambda a=layers, b=precision: spanwright_trains(a, b),
            )
        )
    listed.append(("saliency against the CPU", saliency_is_right))
    for layers, packed, dtype in itertools.product((1, 2), (False, True), (torch.float32, torch.bfloat16)):
        if dtype is torch.bfloat16 and DEVICE == "cpu":
            continue
        name = f"bare LSTM in evaluation mode, {layers} layer(s), {'packed' if packed else 'dense'}, {str(dtype)[6:]}"
        listed.append((name, lambda a=layers, b=packed, c=dtype: bare_lstm(a, b, c)))
    return [
        *listed,
        ("mode grid", grid),
        ("gradient checkpointing", checkpointing),
        ("restored random state, two LSTM layers", random_state),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    found = []
    for name, check in rows():
        right, told = check()
        found.append({"check": name, "right": right, "told": told})
    print(f"torch {torch.__version__}, {device}\n\n| check | result | |\n|---|---|---|")
    for row in found:
        print(f"| {row['check']} | {row['told']} | {'as it must be' if row['right'] else 'WRONG'} |")
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "device": device, "rows": found}, indent=2))
    return 0 if all(row["right"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
