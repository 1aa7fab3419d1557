"""Recorded encoders against encoders that run, on a GPU: bit for bit, and how much sooner. About a minute.

    PYTHONPATH=src:benchmarks python tests/gpu/replays_on_gpu.py
    PYTHONPATH=src:benchmarks python tests/gpu/replays_on_gpu.py --family deberta-v2

Needs a CUDA device, torch and transformers.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections.abc import Callable, Iterator
from typing import Any

import shapes
import torch
from timing import milliseconds
from torch import Tensor

from spanwright import modes
from spanwright.config import ModelConfig
from spanwright.encoding import Row
from spanwright.model import GLiNER, build
from spanwright.model import replays as replays_module
from spanwright.tensors import EncodedBatch

ENCODERS = ("minilm-l6", "deberta-v3-small", "modernbert-base")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def batch_of(extractor: Any, rows: int, first: int = 0) -> Any:
    texts = shapes.short_texts(200)[first : first + rows]
    words = [tuple(word.text for word in extractor.split_words(text)) for text in texts]
    return extractor.encoder.encode([Row(each, tuple(shapes.label_names())) for each in words]).to("cuda")


def gradients(model: GLiNER, batch: Any, precision: torch.dtype | None) -> list[Tensor]:
    """Of a step with dropout from a stated random state, and the logits."""
    torch.manual_seed(5)
    model.zero_grad()
    with modes.training_step(model):
        with torch.autocast("cuda", dtype=precision, enabled=precision is not None):
            logits = model(batch).logits.float()
        logits.square().mean().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return [logits.detach(), *found]


def equal(ones: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference, relative to the largest number of its tensor."""
    if len(ones) != len(others):
        return float("inf")
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item() for a, b in zip(ones, others, strict=True))


def stop(replays: Any) -> None:
    """No more recordings; shapes are padded as before, so that dropout draws the same masks."""
    replays.clear()
    replays.refused = "stopped"


def warm(replays: Any, on: bool, work: Callable[[], object]) -> None:
    """Recordings of `work` or, with `on` False, none."""
    replays.clear() if on else stop(replays)
    work()
    work()


def look(shape: str) -> Iterator[tuple[str, str, bool]]:
    """What is looked at, what was found, and whether it is right; one after another, for a lease may end."""
    extractor = shapes.extractor(shape)
    model = extractor.model.to("cuda")
    model.train()
    replays: Any = model.replays
    for name, precision in PRECISIONS.items():
        replays.clear()
        batch, other = (batch_of(extractor, 2 if precision is None else 8, first=first) for first in (0, 40))
        seen = [gradients(model, batch, precision) for _ in range(4)]
        count, refused = len(replays), replays.refused
        gradients(model, other, precision)
        again = gradients(model, batch, precision)
        stop(replays)
        plain = gradients(model, batch, precision)
        repeat = equal(gradients(model, batch, precision), plain)
        worst = max(equal(each, plain) for each in (*seen, again))
        if count != 1:
            print(f"refused: {refused}")
        right = count == 1 and worst <= max(2 * repeat, 1e-6 if precision is None else 1e-2)
        yield ((f"gradients, {name}", f"{worst:.1e} off, a repetition {repeat:.1e}; {count} recording", right))
    batch, other = batch_of(extractor, 2), batch_of(extractor, 2, first=40)
    # weights that change in place, as an optimizer's do
    replays.clear()
    for _ in range(3):
        gradients(model, batch, None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    changed = gradients(model, batch, None)
    stop(replays)
    off = equal(changed, gradients(model, batch, None))
    yield (("weights changed in place", f"{off:.1e} off", off < 1e-5))

    def two_forwards() -> None:
        with modes.training_step(model):
            first, second = model(batch).logits.square().mean(), model(other).logits.mean()
            (first + second).backward()

    def inference_in_between() -> None:
        with modes.training_step(model):
            loss = model(batch).logits.square().mean()
        for _ in range(3):
            with modes.inference(model):
                model(other)
        loss.backward()

    works = {"two forwards, one backward": two_forwards, "inference before the backward": inference_in_between}
    for name, work in works.items():
        found = []
        for on in (True, False):
            warm(replays, on, lambda: [gradients(model, each, None) for each in (batch, other)])
            torch.manual_seed(1)
            model.zero_grad()
            work()
            found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        off = equal(*found)
        yield ((name, f"{off:.1e} off", off < 1e-5))
    replays.clear()
    seen_by_hook: list[int] = []
    hook = next(model.backbone.transformer.children()).register_forward_hook(lambda *_: seen_by_hook.append(1))
    gradients(model, batch, None)
    hook.remove()
    yield (("a hook is called", str(len(seen_by_hook)), len(seen_by_hook) == 1))
    model.zero_grad()
    model.eval()
    texts, labels = shapes.short_texts(24), shapes.label_names()
    answers = {}
    for kind in (torch.float32, torch.float16):
        model.to(kind)
        took = {}
        for on in (False, True):
            warm(replays, on, lambda: [extractor.extract(text, labels) for text in texts])
            answers[on] = [[(e.start, e.end, e.label) for e in extractor.extract(text, labels)] for text in texts]
            extractor.extract(texts[0], labels)
            took[on] = milliseconds(lambda texts=texts: [extractor.extract(text, labels) for text in texts]) / 24
        told = f"{took[False]:.2f} ms to {took[True]:.2f}, {len(replays)} recordings"
        yield ((f"one text, {str(kind)[6:]}", told, answers[True] == answers[False]))
    counts = []
    for kind in (torch.float32, torch.bfloat16, torch.float16):  # recordings of weights that are no more
        model.to(kind)
        extractor.extract(texts[0], labels)
        counts.append(len(replays))
    yield (("weights of other kinds", f"{counts} recordings {replays.refused[:90]}", counts == [1, 1, 1]))
    yield (("a recording that fails", *a_failure(model, batch)))
    model.float().train()
    for name, precision in PRECISIONS.items():
        many = batch_of(extractor, 32)
        took = {}
        for on in (False, True):
            warm(replays, on, lambda p=precision, many=many: gradients(model, many, p))
            took[on] = milliseconds(lambda p=precision, many=many: gradients(model, many, p))
        yield ((f"32 rows, {name}", f"{took[False]:.1f} ms to {took[True]:.1f}", True))


def a_failure(model: GLiNER, batch: Any) -> tuple[str, bool]:
    """What looks at numbers cannot be recorded: the network runs, and random numbers are to be had as ever."""
    replays, plain = model.replays, GLiNER.logits_of

    def looks(self: GLiNER, *tensors: Tensor) -> Tensor:
        logits = plain(self, *tensors)
        if torch.cuda.is_current_stream_capturing():
            logits.sum().item()
        return logits

    replays.clear()
    model.float()
    torch.manual_seed(1)
    expected = torch.rand(3, device="cuda")
    torch.manual_seed(1)
    GLiNER.logits_of = looks  # type: ignore[method-assign]
    try:
        with modes.inference(model):
            model(batch)
    finally:
        GLiNER.logits_of = plain  # type: ignore[method-assign]
    drawn = torch.rand(3, device="cuda")
    told, right = replays.refused[:60], torch.equal(drawn, expected) and len(replays) == 0
    replays.clear()
    with modes.inference(model):
        model(batch)
    return f"{told}; then {len(replays)} recording", bool(right and told) and len(replays) == 1


def where(shape: str) -> None:
    """Where the time of replayed steps goes, on the host and on the device."""
    extractor = shapes.extractor(shape)
    model = extractor.model.to("cuda")
    texts, labels = shapes.short_texts(20), shapes.label_names()
    batch = batch_of(extractor, 32)
    for name, work in (
        ("20 texts", lambda: [extractor.extract(text, labels) for text in texts]),
        ("5 steps, bf16", lambda: [gradients(model.train(), batch, torch.bfloat16) for _ in range(5)]),
        ("5 steps, fp32", lambda: [gradients(model.train(), batch, None) for _ in range(5)]),
    ):
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        with torch.profiler.profile() as profile:
            work()
            torch.cuda.synchronize()
        print(name)
        print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=24, max_name_column_width=90))
    model.eval()
    work = cProfile.Profile()
    work.enable()
    for text in texts:
        extractor.extract(text, labels)
    work.disable()
    pstats.Stats(work).sort_stats("tottime").print_stats(30)


SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "pad_token_id": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "albert", "ernie")},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "deberta-v2": {**shapes._DEBERTA, "type_vocab_size": 0},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1},
    "modernbert": {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "dropout": 0.1},
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
    "mt5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
}


def family(name: str) -> int:
    """Whether a model of that kind can be recorded: a process for each, for one that fails spoils it."""
    replays_module.ENCODERS = {name}
    config = {"model_type": name, **FAMILIES[name], **SMALL}
    model: Any = build(ModelConfig(backbone=name, backbone_config=config, hidden_size=32)).cuda().train()
    ids = torch.randint(4, 99, (3, 24), device="cuda")
    counts = torch.tensor([16, 12, 5], device="cuda")[:, None]
    places = torch.arange(16, device="cuda")
    starts = (places + 7).expand(3, -1).contiguous()
    real = torch.arange(24, device="cuda") < counts + 8
    labels = torch.tensor([[1, 3], [1, 3], [1, 1]], device="cuda")
    asked = torch.tensor([[True, True], [True, True], [True, False]], device="cuda")
    batch = EncodedBatch(ids, real, labels, asked, starts, starts + 1, places < counts, (16, 12, 5))
    found = []
    for on in (True, False):
        model.replays.clear()
        model.replays.refused = "" if on else "stopped"
        for _ in range(4):
            torch.manual_seed(0)
            model.zero_grad()
            scores = model(batch)
            (scores.logits.square() * scores.cell_mask()).sum().backward()
            with modes.inference(model):
                still = model(batch).logits
        if on:
            count, refused = len(model.replays), model.replays.refused
            if refused:
                print(f"| {name} | cannot be recorded: {refused.splitlines()[0][:90]} |", flush=True)
                return 1
        found.append([scores.logits.detach(), still, *(p.grad for p in model.parameters() if p.grad is not None)])
    model.replays.enabled = False
    with modes.inference(model):
        packed = model(batch)
    off, layout = equal(*found), ((packed.logits - still) * packed.cell_mask()).abs().max().item()
    print(f"| {name} | {count} recordings, {off:.1e} off; without them {layout:.1e} off |", flush=True)
    return int(count != 2 or off > 1e-5 or layout > 1e-5)


def main() -> int:
    if sys.argv[1:2] == ["--family"]:
        return family(sys.argv[2])
    if sys.argv[1:2] == ["--where"]:
        where(sys.argv[2])
        return 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wrong = 0
    for shape in sys.argv[1:] or ENCODERS:
        for name, told, right in look(shape):
            wrong += not right
            print(f"| {shape} | {name} | {told} | {'as it must be' if right else 'WRONG'} |", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
