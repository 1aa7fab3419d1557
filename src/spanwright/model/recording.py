"""A recording: the kernels of a network at work on tensors of certain shapes, as CUDA graphs. When: `replays`."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

_log = logging.getLogger(__name__)


class Shared:
    """What the recordings of a network have in common: memory, the stream that replays them, and whose turn it is."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pools: dict[bool, Any] = {}
        self.stream: Any = None  # on which all of them are made
        self.gradients: list[Tensor] = []
        self.turn: weakref.ref[Turn] | None = None
        self._replayed_on: Any = None

    def forget(self) -> None:
        """Let go of memory that no recording is left to use: torch refuses to record into such a pool again."""
        self.pools, self.gradients = {}, []

    @property
    def is_waiting(self) -> bool:
        """Whether a forward's backward is still to come; not if nothing can come of it any more."""
        turn = None if self.turn is None else self.turn()
        return torch.is_grad_enabled() and turn is not None and not turn.is_over

    def is_of_this_stream(self) -> bool:
        """Whether the current stream is the one that replays: two would write to the same memory at once."""
        stream = torch.cuda.current_stream()
        if self._replayed_on is None:
            self._replayed_on = stream
        return bool(self._replayed_on == stream)

    def pool(self, *, backward: bool) -> Any:
        """Memory of forwards that a backward follows, or of forwards alone."""
        if backward not in self.pools:
            self.pools[backward] = torch.cuda.graph_pool_handle()
        return self.pools[backward]


class Turn:
    """A forward whose backward may come: until it has, the memory that it reads must not be written to."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.versions = [parameter._version for parameter in parameters]
        self.is_over = False


class Recording:
    """The kernels of a forward and, where it records gradients, of its backward."""

    def __init__(self, shared: Shared, parameters: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        self._shared = shared
        self._parameters = parameters
        self._tensors = [tensor.clone() for tensor in tensors]
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()

    def record(self, network: nn.Module) -> None:
        """On a stream of its own, the one that is current when this is called.

        The parameters have stand-ins of the same memory: autograd may know them from another stream.
        """
        named = network.named_parameters() if self._parameters else ()
        stand_ins = {f"network.{name}": p.detach().requires_grad_() for name, p in named if p.requires_grad}
        wanted = list(stand_ins.values())
        body = _Body(network)

        def run() -> Tensor:
            logits: Tensor = functional_call(body, stand_ins, tuple(self._tensors))
            return logits

        # libraries and kernels set themselves up in a first call, which cannot be recorded
        logits = run()
        if wanted:
            torch.autograd.grad(logits, wanted, torch.zeros_like(logits), allow_unused=True)
            del logits
            torch.cuda.empty_cache()  # what the call took goes back, for the recording takes as much of its own
        pool = self._shared.pool(backward=bool(wanted))
        with _capture(self._forward, pool):
            logits = run()
        self._logits = logits.detach()
        if not wanted:
            return
        self._gradient = torch.zeros_like(logits)
        if not self._shared.gradients:
            self._shared.gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        with _capture(self._backward, pool):
            found: Sequence[Tensor | None] = torch.autograd.grad(logits, wanted, self._gradient, allow_unused=True)
            self._used = [gradient is not None for gradient in found]
            self._kept = [each for each, used in zip(self._shared.gradients, self._used, strict=True) if used]
            torch._foreach_copy_(self._kept, [gradient for gradient in found if gradient is not None])

    def replay(self, tensors: Sequence[Tensor]) -> Tensor:
        """The logits for tensors of the recorded shapes; a backward of them is replayed too."""
        logits: Tensor
        if self._parameters:
            logits = _Replayed.apply(self, len(tensors), *tensors, *self._parameters)  # type: ignore[no-untyped-call]
            return logits
        return self.forward(tensors)

    def begin(self) -> Turn:
        """A new turn: that of a forward whose backward may come."""
        turn = Turn(self._parameters)
        self._shared.turn = weakref.ref(turn)
        return turn

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """The logits alone, a copy."""
        torch._foreach_copy_(self._tensors, list(tensors))
        self._forward.replay()
        return self._logits.clone()

    def backward(self, turn: Turn, gradient: Tensor) -> list[Tensor | None]:
        """The gradients of the parameters: copies, for the next backward writes to the same place.

        Raises:
            RuntimeError: what the backward needs is gone, or was changed.

        """
        with self._shared.lock:
            if turn.is_over or self._shared.turn is None or self._shared.turn() is not turn:
                raise RuntimeError(
                    "The backward of a forward must come once, and before the next forward, but comes again or later. "
                    "Set `model.replays.enabled = False` to keep a graph."
                )
            if turn.versions != [parameter._version for parameter in self._parameters]:
                raise RuntimeError(
                    "The weights must be the same at a forward and its backward, but were changed in between."
                )
            self._gradient.copy_(gradient)
            self._backward.replay()
            copies = iter(torch._foreach_mul(self._kept, 1.0))  # of all in a few kernels
            turn.is_over = True
        return [next(copies) if used else None for used in self._used]


class _Body(nn.Module):
    """The network as a module whose forward is what is recorded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.network.logits_of(*tensors)  # type: ignore[operator]
        return logits


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: Recording, count: int, *tensors: Tensor) -> Tensor:
        ctx.recording, ctx.turn, ctx.count = recording, recording.begin(), count
        return recording.forward(tensors[:count])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Second gradients must be taken of a network that is run, but this one is replayed. Set "
                "`model.replays.enabled = False`."
            )
        return None, None, *[None] * ctx.count, *ctx.recording.backward(ctx.turn, gradient)


def record(shared: Shared, network: nn.Module, tensors: Sequence[Tensor]) -> Recording:
    """A recording of the network at work on these; the random state is left as it was found."""
    recorded = [p for p in network.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
    recording = Recording(shared, recorded, tensors)
    device = tensors[0].device
    state = torch.cuda.get_rng_state(device)
    if shared.stream is None:
        shared.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    now, own = torch.cuda.current_stream(device), shared.stream
    own.wait_stream(now)
    try:
        with torch.cuda.stream(own), unremembered():
            recording.record(network)
    except BaseException:
        try:
            _mend_random_numbers(device)
        except RuntimeError as error:  # must not hide what came first
            _log.warning("Random numbers may not be had on %s any more: %s", device, error)
        raise
    finally:
        now.wait_stream(own)
        torch.cuda.set_rng_state(state, device)
    return recording


def unremembered() -> torch.autocast:
    """The precision that is now, but weights are cast anew at each use.

    What autocast remembers of them would be gone when a recording is replayed.
    """
    return torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    )


def _mend_random_numbers(device: torch.device) -> None:
    """After a recording that failed, torch takes its generator to be recorded still, and refuses to draw from it.

    One that succeeds ends that.
    """
    stream, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream), _capture(torch.cuda.CUDAGraph(), pool):
        torch.zeros(1, device=device)


@contextmanager
def _capture(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """What is launched in the block goes into `graph`, and nothing else happens on the device."""
    collects = gc.isenabled()
    gc.disable()  # what it frees may be the device's
    try:
        torch.cuda.synchronize()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            yield
        finally:
            graph.capture_end()
    finally:
        if collects:
            gc.enable()


__all__ = ["Recording", "Shared", "Turn", "record", "unremembered"]
