"""The bidirectional LSTM over words, safe to differentiate in any mode."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class GradSafeLSTM(nn.LSTM):
    """`nn.LSTM` whose backward works in evaluation mode on cuDNN too; the same numbers, the same parameters.

    cuDNN keeps what its backward needs only if the kernel is told that it trains, and `nn.LSTM` tells it its own
    `training` flag. Here it is told whether autograd records, which is what it wants to know, and the dropout between
    layers, the only other thing the flag decides, is passed as 0 in evaluation mode. No flag is written.
    """

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        """As `nn.LSTM.forward`."""
        if self.training or not torch.is_grad_enabled() or self.proj_size > 0:
            return super().forward(input, hx)
        packed = isinstance(input, PackedSequence)
        data = input.data if packed else input
        if not packed and data.dim() != 3:
            return super().forward(input, hx)
        hx = self._initial_state(input, hx)
        kernel: Any = torch.lstm  # two signatures, of dense and of packed input
        shared = (self._flat_weights, self.bias, self.num_layers, 0.0, True, self.bidirectional)
        if not packed:
            output, hidden, cell = kernel(data, hx, *shared, self.batch_first)
            return output, (hidden, cell)
        output, hidden, cell = kernel(data, input.batch_sizes, hx, *shared)
        states = self.permute_hidden((hidden, cell), input.unsorted_indices)
        return PackedSequence(output, input.batch_sizes, input.sorted_indices, input.unsorted_indices), states

    def one_way(self, words: Tensor, *, backwards: bool) -> Tensor:
        """What one direction of a single layer makes of dense rows (B, L, D), read from the first word to the last."""
        weights = [getattr(self, name) for name in self._all_weights[0 + backwards]]
        if words.is_cuda:  # cuDNN wants all of them in one piece
            together = torch.cat([weight.flatten() for weight in weights])
            pieces = torch.split(together, [weight.numel() for weight in weights])
            weights = [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]
        kernel: Any = torch.lstm
        zeros = weights[0].new_zeros(1, words.shape[0], self.hidden_size)
        output: Tensor = kernel(words, (zeros, zeros), weights, True, 1, 0.0, True, False, True)[0]
        return output

    def _initial_state(self, words: Any, hx: Any) -> list[Tensor]:
        """The given state in the packed order, or zeros (layers * directions, B, D)."""
        packed = isinstance(words, PackedSequence)
        if hx is not None:
            return list(self.permute_hidden(hx, words.sorted_indices) if packed else hx)
        data = words.data if packed else words
        rows = int(words.batch_sizes[0]) if packed else data.shape[0 if self.batch_first else 1]
        layers = self.num_layers * (2 if self.bidirectional else 1)
        zeros = torch.zeros(layers, rows, self.hidden_size, dtype=data.dtype, device=data.device)
        return [zeros, zeros]


class BiLSTM(nn.Module):
    """Layers of bidirectional LSTM over words: (B, L, D) -> (B, L, D), padding comes out as 0.

    The layers are modules of their own, and so is the dropout between them: `nn.LSTM` would draw its masks from a
    cuDNN state that no random state can be restored into, and an interrupted run could not be resumed exactly.
    """

    def __init__(self, hidden_size: int, *, num_layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        half = hidden_size // 2
        self.layers = nn.ModuleList(
            GradSafeLSTM(hidden_size, half, batch_first=True, bidirectional=True) for _ in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor, word_counts: tuple[int, ...]) -> Tensor:
        """`word_counts`: words of each row, each at least 1."""
        if not self.layers:
            return words
        if _reads_rows(words) and all(map(_is_plain, self.layers)):
            return self.over_rows(words, torch.tensor(word_counts, device=words.device))
        plan = _Packing.of(word_counts, words)
        flat = words.flatten(0, 1)
        packed = PackedSequence(flat.index_select(0, plan.places), plan.batch_sizes)
        for index, layer in enumerate(self.layers):
            if index > 0:
                packed = packed._replace(data=self.dropout(packed.data))
            packed, _ = layer(packed)
        output = torch.zeros_like(flat, dtype=packed.data.dtype).index_copy(0, plan.places, packed.data)
        return output.view(words.shape)

    def over_rows(self, words: Tensor, word_counts: Tensor) -> Tensor:
        """The same over padded rows, one direction after the other, the second over rows turned round.

        On a CPU oneDNN does this in half the time of torch's own backward over packed words, which writes a gradient
        of the weights for each word of the longest row. `word_counts` (B,) may be on a device: nothing looks at them.
        """
        if not self.layers:
            return words
        counts = word_counts.unsqueeze(1)
        places = torch.arange(words.shape[1], device=words.device)
        beyond = (places >= counts).unsqueeze(-1)
        turned = torch.where(places < counts, counts - 1 - places, places).unsqueeze(-1)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, GradSafeLSTM)
            if index > 0:
                words = self.dropout(words)
            ahead = layer.one_way(words, backwards=False)
            back = layer.one_way(words.gather(1, turned.expand_as(words)), backwards=True)
            words = torch.cat([ahead, back.gather(1, turned.expand_as(back))], dim=-1)
            words = words.masked_fill(beyond, 0.0)
        return words


def _is_plain(layer: nn.Module) -> bool:
    """Whether nobody would miss the call of the layer itself."""
    return type(layer) is GradSafeLSTM and not (layer._forward_hooks or layer._forward_pre_hooks)


def _reads_rows(words: Tensor) -> bool:
    """Whether a backward may follow on a CPU."""
    return words.device.type == "cpu" and torch.is_grad_enabled()


class _Packing(NamedTuple):
    """How words (B, L) are laid out for an LSTM: first words of all rows, then second ones, ...; longest row first.

    places: of each packed word among the B·L; batch_sizes: rows that have a first word, a second, ... Made on the
    host and sent without waiting, where `pack_padded_sequence` would wait for the device to be done.
    """

    places: Tensor
    batch_sizes: Tensor

    @classmethod
    def of(cls, word_counts: tuple[int, ...], words: Tensor) -> _Packing:
        counts = np.array(word_counts)
        order = np.argsort(-counts, kind="stable")
        has_word = np.arange(counts.max())[:, None] < counts[order][None]
        turn, row = has_word.nonzero()
        places = torch.from_numpy(order[row] * words.shape[1] + turn)
        if words.is_cuda:
            places = places.pin_memory().to(words.device, non_blocking=True)
        return cls(places, torch.from_numpy(has_word.sum(axis=1)))
