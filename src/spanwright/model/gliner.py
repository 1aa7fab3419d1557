"""The network: parts, and the page that puts them together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from spanwright import modes
from spanwright.config import ModelConfig
from spanwright.model.backbone import Backbone, build_transformer, transformer_config
from spanwright.model.lstm import BiLSTM
from spanwright.model.pooling import pool_words, take
from spanwright.model.projection import Projection
from spanwright.model.spans import MarkerSpans
from spanwright.tensors import EncodedBatch, SpanScores


class GLiNER(modes.Moded):
    """Scores every span of every row for every label asked. Tensors in, tensors out; it computes no loss.

    Parts: `backbone` (subtoken states), `context` (BiLSTM over words), `labels` (projection of label vectors), `spans`
    (the scorer). A new model rests in evaluation mode; see `spanwright.modes`.
    """

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        size, dropout = config.hidden_size, config.dropout
        self.config = config
        self.backbone = backbone
        self.context = BiLSTM(size, num_layers=config.num_rnn_layers, dropout=config.rnn_dropout)
        self.labels = Projection(size, size, dropout)
        self.spans = MarkerSpans(size, max_width=config.max_width, dropout=dropout)
        modes.rest(self)

    def forward(self, batch: EncodedBatch) -> SpanScores:
        """Logits (B, L, K, C) of a batch.

        Raises:
            ModeError: the forward records gradients while a module is not in its declared mode.

        """
        with modes.forward_scope(self) as watch:
            logits = self._logits(batch)
            watch(logits)
        return SpanScores(logits, batch.word_mask, batch.label_mask)

    def _logits(self, batch: EncodedBatch) -> Tensor:
        states = self.backbone(batch.input_ids, batch.attention_mask)
        labels = take(states, batch.label_positions, batch.label_mask)
        words = pool_words(states, batch.word_starts, batch.word_ends, batch.word_mask, self.config.subtoken_pooling)
        words = self.context(words, batch.word_counts)
        logits: Tensor = self.spans(words, self.labels(labels))
        return logits

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return next(self.parameters()).dtype


def build(config: ModelConfig, *, seed: int = 0) -> GLiNER:
    """A model of `config` with random weights, drawn from `seed`. The global random state is left as it was found.

    Raises:
        CheckpointError: the backbone's configuration is none that transformers knows.

    """
    with drawn_from(seed):
        transformer = build_transformer(transformer_config(config.backbone_config))
        return GLiNER(config, Backbone(transformer, config.hidden_size))


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """A block that builds on the CPU and draws from `seed`, after which the global random state is as before."""
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.random.set_rng_state(state)
