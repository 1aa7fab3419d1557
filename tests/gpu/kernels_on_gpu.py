"""The kernels on a GPU: their numbers against the plain forms', and their time. Half a minute.

    PYTHONPATH=src:benchmarks python tests/gpu/kernels_on_gpu.py

Needs a CUDA device and Triton, which torch brings on Linux.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product

import shapes
import torch
from timing import milliseconds
from torch import Tensor

from spanwright.model import disentangled, kernels, markers, modernbert
from spanwright.model.backbone import build_transformer, transformer_config
from spanwright.model.kernels import spans as span_kernels

CASES = ((96, 64, 2048, 9, 12), (2, 384, 2048, 64, 12), (3, 17, 130, 5, 7))
KINDS = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}  # of the largest number


def off(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-9)).item()


def compare(case: tuple[int, ...], kind: torch.dtype, dropout: float) -> float:
    """How far products and gradients lie from those of the formula in float64, given which states are alive."""
    rows, length, size, labels, width = case
    shapes = (rows, length, size), (rows, length, size), (rows, labels, size)
    values = [torch.randn(shape, device="cuda").to(kind) for shape in shapes]
    found, alive = span_kernels.products(*values, width, dropout, recording=True)
    real = ~markers.beyond(found)
    gradient = (torch.randn(found.shape, device="cuda") * real).to(kind)
    given = span_kernels.gradients(*values, alive, gradient, 1 / (1 - dropout))
    again = span_kernels.gradients(*values, alive, gradient, 1 / (1 - dropout))
    assert all(map(torch.equal, given, again)), "another order of sums"
    assert not (alive[0] & ~real).any()
    share = alive[0].float().sum() / real.sum() / rows / size
    assert rows * length < 99 or abs(share.item() - 0.5 * (1 - dropout)) < 0.01, share
    worst = 0.0
    for row in range(min(rows, 2)):  # float64 of all rows would not fit
        some = [value[row : row + 1].double().requires_grad_() for value in values]
        living = alive[0][row : row + 1]
        ahead = torch.nn.functional.pad(some[1], (0, 0, 0, width - 1)).unfold(1, width, 1).transpose(2, 3)[:, :length]
        states = (some[0].unsqueeze(2) + ahead) * living / (1 - dropout)
        expected = states @ some[2].transpose(1, 2).unsqueeze(1)
        wanted = torch.autograd.grad(expected, some, gradient[row : row + 1].double())
        pairs = [(found[row], expected[0]), *((g[row], w[0]) for g, w in zip(given, wanted, strict=True))]
        worst = max(worst, *(off(*pair) for pair in pairs))
    return worst


def time_both(case: tuple[int, ...], kind: torch.dtype) -> str:
    rows, length, size, labels, width = case
    shapes = (rows, length, size), (rows, length, size), (rows, labels, size)
    values = [torch.randn(shape, device="cuda").to(kind) for shape in shapes]
    told = []
    for how in (markers, span_kernels):
        found, alive = how.products(*values, width, 0.4, recording=True)
        told.append(milliseconds(lambda how=how: how.products(*values, width, 0.4, recording=True)))
        told.append(milliseconds(lambda how=how, a=alive, f=found: how.gradients(*values, a, f, 1 / 0.6)))
        told.append(milliseconds(lambda how=how: how.products(*values, width, 0.0, recording=False)))
    ahead, back, alone = ((told[place], told[place + 3]) for place in range(3))
    return "; ".join(
        f"{name} {a:.2f} ms to {b:.2f}"
        for name, (a, b) in zip(("forward", "backward", "inference"), (ahead, back, alone), strict=True)
    )


def encoder(shape: str, kind: torch.dtype) -> tuple[float, str]:
    """An encoder with its kernels and without, weights of that kind: states and gradients, and the milliseconds."""
    config = transformer_config({**shapes.SHAPES[shape], "num_hidden_layers": 4})
    torch.manual_seed(0)
    with torch.device("cuda"):
        transformer = build_transformer(config).to("cuda", kind).eval()
    disentangled.speed_up(transformer)
    modernbert.adopt(transformer)
    ids = torch.randint(5, 999, (8, 120), device="cuda")
    mask = torch.arange(120, device="cuda") < torch.tensor([[120, 120, 64, 65, 3, 1, 99, 119]], device="cuda").T
    weights = torch.randn(8, 120, config.hidden_size, device="cuda") * mask.unsqueeze(-1)
    found, told = [], []

    def work() -> Tensor:
        transformer.zero_grad()
        states: Tensor = transformer(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        (states.float() * weights).sum().backward()
        return states.detach()[mask]

    for on in (False, True):
        kernels.enabled = on
        states = work()
        found.append([states, *(p.grad.clone() for p in transformer.parameters() if p.grad is not None)])
        told.append(milliseconds(work))
    least = 1e-2 * max(each.abs().max() for each in found[0])  # below it there is little but rounding (biases of keys)
    worst = max(off(a, b.double()) for a, b in zip(*reversed(found), strict=True) if b.abs().max() > least)
    return worst, f"{told[0]:.1f} ms to {told[1]:.1f}"


def time_attention(shape: str, rows: int, length: int) -> str:
    """A layer's, forward and backward in bf16 with dropout: plain, and as a kernel."""
    config = transformer_config({**shapes.SHAPES[shape], "num_hidden_layers": 1})
    with torch.device("cuda"):
        transformer = build_transformer(config).bfloat16().train()
    disentangled.speed_up(transformer)
    modernbert.adopt(transformer)
    ids = torch.randint(5, 999, (rows, length), device="cuda")
    mask = (torch.arange(length, device="cuda") < length - torch.arange(rows, device="cuda")[:, None] % 9).long()
    told = []
    for backward in (False, True):
        for on in (False, True):
            kernels.enabled = on

            def work(backward: bool = backward) -> None:
                with torch.set_grad_enabled(backward):
                    found = transformer(input_ids=ids, attention_mask=mask).last_hidden_state
                    if backward:
                        found.sum().backward()

            told.append(replayed(work))
    return f"forward {told[0]:.2f} ms to {told[1]:.2f}, with backward {told[2]:.2f} to {told[3]:.2f}"


def replayed(work: Callable[[], object]) -> float:
    """Milliseconds of the device alone."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return milliseconds(graph.replay)


def second_gradients() -> float:
    values = [torch.randn(2, 5, 32, device="cuda", requires_grad=True) for _ in range(2)]
    values += [torch.randn(2, 3, 32, device="cuda", requires_grad=True), torch.randn(2, 3, device="cuda")]
    seconds = []
    for device in ("cuda", "cpu"):
        some = [value.detach().to(device).requires_grad_() for value in values]
        firsts = torch.autograd.grad(markers.marker_logits(*some, 3).square().sum(), some[:3], create_graph=True)
        total = sum(first.square().sum() for first in firsts)
        seconds.append([each.cpu() for each in torch.autograd.grad(total, some[:3])])
    return max(off(a, b.double()) for a, b in zip(*seconds, strict=True))


def main() -> int:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    wrong = int(not kernels.are_to_be_had(torch.device("cuda", 0)))
    print(f"| kernels to be had: {not wrong} |")
    for case in CASES:
        for kind, bound in KINDS.items():
            for dropout in (0.0, 0.4):
                worst = compare(case, kind, dropout)
                wrong += worst > bound
                print(
                    f"| {case} | {str(kind)[6:]} | dropout {dropout} | {worst:.1e} off | {worst <= bound} |", flush=True
                )
    for shape, kind in product(("deberta-v3-small", "modernbert-base"), KINDS):
        worst, told = encoder(shape, kind)
        bound = 10 * KINDS[kind]
        wrong += worst > bound
        print(f"| {shape} | {str(kind)[6:]} | {told} | {worst:.1e} off | {worst <= bound} |", flush=True)
    for shape, (rows, length) in product(("deberta-v3-base", "modernbert-base"), ((96, 128), (8, 512))):
        print(f"| a layer of {shape}, {rows} x {length} | {time_attention(shape, rows, length)} |", flush=True)
    worst = second_gradients()
    wrong += worst > 1e-4
    print(f"| second gradients | {worst:.1e} off |")
    for case in CASES[:2]:
        for kind in KINDS:
            print(f"| {case} | {str(kind)[6:]} | {time_both(case, kind)} |", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
