"""A network's kernels, recorded once for a shape and replayed as a whole (CUDA graphs).

A GPU does the work of a small batch in less time than the host takes to launch its kernels one by one. A recording is
launched at once. It computes what the network computes, dropout masks and all, with the very weights that it was made
of; so it is used only where everything that it has fixed is as it was: weights at their places, modes, precision. What
a recording would miss (hooks, compilers, shards) has the network run. See docs/decisions/0008.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from spanwright.model import kernels
from spanwright.model.recording import Recording, Shared, record, unremembered
from spanwright.modes.plan import modules_of

_MOST_SUBTOKENS = {False: 2048, True: 32768}  # of a forward alone, and of one that a backward follows
# subtokens times weights that they are multiplied with: beyond, the device takes longer than the host (H100 and H200)
_MOST_PRODUCTS = {torch.float32: 5e10, torch.float16: 4e12, torch.bfloat16: 4e12}
_LARGE = 4096  # subtokens from which padding costs more than recordings
_MOST_RECORDINGS = 48
# tried by tests/gpu/replays_on_gpu.py; to record one that looks at its numbers spoils the process's random state
ENCODERS = frozenset(
    {"albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie"}
    | {"modernbert", "mt5", "roberta", "t5", "xlm-roberta"}
)
_FIXED = (bool, int, float)  # attributes of modules that a recording holds as they were
# torch tells of them from 2.8 on; before, any may be there
_saving_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: "unknown")
_log = logging.getLogger(__name__)
_TOLD = "Small batches are run, not replayed, and take longer: %s"
_one_at_a_time = threading.Lock()  # recordings of the process
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Replays:
    """The recordings of one network.

    A shape is recorded when it first comes. What is run instead, because a recording is not to be had, gives the same
    numbers. Recordings that a backward follows share their memory, so between a forward and its backward no other of
    them is replayed: a second forward is run. `enabled`: False lets all be run, as on a CPU. `refused`: why recording
    failed, once it has; nothing is recorded then until `clear`.

    While a recording is made, no other thread of the process may use the device: that is CUDA's rule.
    """

    def __init__(self, encoder: str, num_weights: int, *, enabled: bool = True) -> None:
        """`encoder`: the kind, as transformers names it. `num_weights`: those that each subtoken is multiplied with."""
        self.encoder, self.num_weights, self.enabled = encoder, num_weights, enabled
        self.clear()

    def clear(self) -> None:
        """Forget all recordings and give their memory back."""
        self._of: object = None  # the weights that recordings are of
        self._recordings: dict[object, Recording] = {}
        self._shared = Shared()
        self.refused = ""

    def give_up(self, reason: str) -> None:
        """As `clear`, and nothing is recorded any more; a GPU has the memory back."""
        self.clear()
        self.refused = reason
        torch.cuda.empty_cache()
        _log.warning(_TOLD, reason)

    def __deepcopy__(self, _: Any) -> Replays:
        return _made(self.encoder, self.num_weights, self.enabled)

    def __reduce__(self) -> Any:
        return _made, (self.encoder, self.num_weights, self.enabled)

    def __len__(self) -> int:
        """How many recordings there are."""
        return len(self._recordings)

    def parts(self, network: nn.Module, input_ids: Tensor, dtype: torch.dtype) -> list[nn.Module] | None:
        """All modules of a network of weights of `dtype` if it may be replayed for sequences (B, S), else None.

        It may where launching bounds the work, nobody looks on, and no other thread shares the modules while gradients
        are recorded. What was recorded before has no say in it: the lengths that a run sees must not depend on that.
        """
        if not self._is_small(input_ids, dtype) or _is_special() or (torch.is_grad_enabled() and not network.training):
            return None
        modules = modules_of(network)
        return None if _are_watched(modules) else modules

    def _is_small(self, input_ids: Tensor, dtype: torch.dtype) -> bool:
        if not self.enabled or not input_ids.is_cuda or self.encoder not in ENCODERS:
            return False
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
        count = input_ids.numel()
        most = _MOST_PRODUCTS.get(dtype, 0)
        return count <= _MOST_SUBTOKENS[torch.is_grad_enabled()] and count * self.num_weights <= most

    def run(self, network: nn.Module, modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> Tensor:
        """What `network.logits_of` gives; it must look at none of the tensors' numbers. `modules`: as `parts` gave."""
        if self._shared.lock.acquire(blocking=False):
            try:
                recording = self._recording(network, modules, tensors)
                if recording is not None:
                    return recording.replay(tensors)
            finally:
                self._shared.lock.release()
        with unremembered():  # as the recording has it
            logits: Tensor = network.logits_of(*tensors)  # type: ignore[operator]
            return logits

    def _recording(
        self, network: nn.Module, modules: Sequence[nn.Module], tensors: Sequence[Tensor]
    ) -> Recording | None:
        """The recording for these shapes, made if there is none; None where it is not to be had."""
        if self.refused or self._shared.is_waiting or not self._shared.is_of_this_stream():
            return None
        weights = _weights(modules)
        if weights != self._of:
            self._recordings = {}
            self._shared.forget()
            self._of = weights
        key = (*(tuple(tensor.shape) for tensor in tensors), *_circumstances(modules))
        if key not in self._recordings and len(self._recordings) < _MOST_RECORDINGS:
            if not _one_at_a_time.acquire(blocking=False):
                return None
            try:
                self._recordings[key] = record(self._shared, network, tensors)
            except (RuntimeError, ValueError, NotImplementedError) as error:  # no memory, or what cannot be recorded
                self._recordings = {}
                self._shared.forget()
                self.refused = str(error) or type(error).__name__
                _log.warning(_TOLD, self.refused)
            finally:
                _one_at_a_time.release()
        return self._recordings.get(key)


def rounded(length: int, *, num_subtokens: int = 0) -> int:
    """A length at least as large, of few: powers of two and the middles between them, from 16 on.

    In a batch of many subtokens it is the next multiple of 16 at the most.
    """
    unit = 1 << max(3, (length - 1).bit_length() - 2)
    if num_subtokens >= _LARGE:
        unit = min(unit, 16)
    return max(16, length + -length % unit)


def _made(encoder: str, num_weights: int, enabled: bool) -> Replays:
    return Replays(encoder, num_weights, enabled=enabled)


def _is_special() -> bool:
    """Whether torch is at something that a recording would break or miss: compiling, looking for NaN, counting ..."""
    return (
        torch.compiler.is_compiling()
        or torch.cuda.is_current_stream_capturing()
        or torch.is_inference_mode_enabled()
        or torch.is_anomaly_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or _saving_hooks(True) is not None
    )


def _are_watched(modules: Sequence[nn.Module]) -> bool:
    """Whether somebody looks into them, or their weights are not plain: a recording would pass them by.

    Hooks of the whole network are called around it, as ever.
    """
    inner = modules[1:]
    return (
        _has_any_global_hook()  # type: ignore[no-untyped-call]
        or any(getattr(module, name) for module in inner for name in _HOOKS)
        or any("forward" in module.__dict__ or module.__dict__.get("gradient_checkpointing") for module in inner)
        or any(type(p) is not nn.Parameter for module in modules for p in module._parameters.values() if p is not None)
    )


def _weights(modules: Sequence[nn.Module]) -> object:
    """Which weights there are, where, and what they are."""
    return [
        (id(tensor), tensor.data_ptr(), tensor.shape, tensor.dtype, tensor.requires_grad)
        for module in modules
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    ]


def _circumstances(modules: Sequence[nn.Module]) -> tuple[object, ...]:
    """What the network's numbers depend on besides weights and input: modes, probabilities, widths, precision."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.are_deterministic_algorithms_enabled(),
        kernels.enabled,
        _precision_of_products(),
        tuple(
            (
                id(module),
                type(module),
                getattr(module.__dict__.get("config"), "_attn_implementation", None),
                *[value for value in module.__dict__.values() if type(value) in _FIXED],
            )
            for module in modules
        ),
    )


def _precision_of_products() -> tuple[object, ...]:
    """Whether products of float32 may round; torch refuses to tell in the terms in which it was not told."""
    backends: Any = torch.backends
    try:
        return backends.cuda.matmul.fp32_precision, backends.cudnn.rnn.fp32_precision
    except AttributeError:  # before torch 2.9
        return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32


__all__ = ["ENCODERS", "Replays", "rounded"]
