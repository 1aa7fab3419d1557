"""The network: parts, and the page that puts them together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spanwright import modes
from spanwright.config import DEFAULT_THRESHOLD, ModelConfig
from spanwright.model.backbone import Backbone, build_transformer, transformer_config
from spanwright.model.dropout import quicken
from spanwright.model.fusion import LabelWordFusion
from spanwright.model.lstm import BiLSTM
from spanwright.model.markers import beyond
from spanwright.model.pooling import pool_words, take
from spanwright.model.projection import Projection
from spanwright.model.relations import RelationScorer
from spanwright.model.replays import Replays, rounded
from spanwright.model.spans import MarkerSpans, SpanScorer, span_scorer
from spanwright.model.tokens import TokenScorer
from spanwright.pairs import spans_in
from spanwright.tensors import EncodedBatch, LabelTexts, Scores, SpanScores, TokenScores


class GLiNER(modes.Moded):
    """Scores every row's spans, or words, for every label asked. Tensors in, tensors out; it computes no loss.

    Parts, of which a configuration has those that it names: `backbone` (subtoken states), `label_encoder` (a
    bi-encoder's vectors of labels), `context` (BiLSTM over words), `fusion` (words and labels attend to each other),
    `labels` (projection of label vectors), and the scorer: `spans`, or `tokens` with or without `spans` as a second
    head; `relations` between the entities found. A new model rests in evaluation mode; see `spanwright.modes`.
    """

    def __init__(self, config: ModelConfig, backbone: Backbone, label_encoder: Backbone | None = None) -> None:
        super().__init__()
        size, dropout = config.hidden_size, config.dropout
        self.config = config
        self.backbone = backbone
        self.label_encoder = label_encoder
        bi_encoder = label_encoder is not None  # published bi-encoders carry an LSTM and never run it
        self.context = BiLSTM(size, num_layers=0 if bi_encoder else config.num_rnn_layers, dropout=config.rnn_dropout)
        self.fusion: LabelWordFusion | None = None
        if bi_encoder and config.fusion:
            self.fusion = LabelWordFusion(
                config.fusion,
                size,
                num_layers=config.num_fusion_layers,
                num_heads=backbone.transformer.config.num_attention_heads,
                dropout=dropout,
            )
        if not config.is_token_level or config.finds_relations:
            self.labels = Projection(size, size, dropout)
        if config.is_token_level:
            self.tokens = TokenScorer(size, dropout=dropout)
            if config.span_head or config.finds_relations:
                self.spans: SpanScorer = MarkerSpans("markerV0", size, max_width=config.max_width, dropout=dropout)
        else:
            self.spans = span_scorer(config.span_mode, size, max_width=config.max_width, dropout=dropout)
        if config.adjacency is not None:
            self.relations = RelationScorer(size, adjacency=config.adjacency, triples=config.triples, dropout=dropout)
        quicken(self)
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        num_weights = sum(p.numel() for p in self.parameters() if id(p) not in tables)
        self.replays = Replays(backbone.transformer.config.model_type, num_weights)
        modes.rest(self)

    def forward(
        self, batch: EncodedBatch, threshold: float = DEFAULT_THRESHOLD, adjacency: float = DEFAULT_THRESHOLD
    ) -> Scores:
        """The scores of a batch.

        `threshold` decides what a span head is shown, and what may be related, where the batch names no candidates;
        `adjacency` how near two entities must be for a relation to be looked for.

        Raises:
            ModeError: the forward records gradients while a module is not in its declared mode.

        """
        with modes.forward_scope(self) as watch:
            scores = self._scores(batch, threshold, adjacency)
            watch(scores.logits)
        return scores

    def encode_labels(self, texts: LabelTexts) -> Tensor:
        """The vectors (N, D) of labels that a bi-encoder reads by themselves.

        Raises:
            ModeError: as `forward`.

        """
        assert self.label_encoder is not None
        with modes.forward_scope(self) as watch:
            vectors = self.label_encoder.pooled(texts.input_ids, texts.attention_mask)
            watch(vectors)
        return vectors

    def logits_of(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        label_positions: Tensor,
        label_mask: Tensor,
        word_starts: Tensor,
        word_ends: Tensor,
        word_mask: Tensor,
    ) -> Tensor:
        """The logits of a uni-encoder without a second head, by way of padded rows; for `replays`, which record this.

        Nothing here looks at a number. Modes are not checked: `forward` has done so.
        """
        states = self.backbone(input_ids, attention_mask)
        labels = take(states, label_positions, label_mask)
        words = pool_words(states, word_starts, word_ends, word_mask, self.config.subtoken_pooling)
        words = self.context.over_rows(words, word_mask.sum(dim=1))
        if hasattr(self, "labels"):
            labels = self.labels(labels)
        logits: Tensor = (
            self.tokens(words, labels) if self.config.is_token_level else self.spans(words, labels, word_mask)
        )
        return logits

    def _replayable(self, batch: EncodedBatch) -> list[nn.Module] | None:
        """All modules, if a batch is one to replay."""
        plain = self.label_encoder is None and not self.config.span_head and batch.relations is None
        looks = self.backbone.fuser is not None or self.config.subtoken_pooling not in ("first", "last")
        return self.replays.parts(self, batch.input_ids, self.dtype) if plain and not looks else None

    def _replayed(self, batch: EncodedBatch, modules: list[nn.Module]) -> Scores:
        """The scores of a small batch on a GPU, whose shape is made one of few."""
        length, num_words = batch.input_ids.shape[1], batch.word_starts.shape[1]
        size = batch.input_ids.numel()
        longer, limit = rounded(length, num_subtokens=size), self.backbone.limit
        extra = longer - length if limit is None or longer <= limit else 0
        more_words = (0, rounded(num_words, num_subtokens=size) - num_words)
        tensors = (
            *self.backbone.padded(batch.input_ids, batch.attention_mask, extra),
            batch.label_positions,
            batch.label_mask,
            *(F.pad(each, more_words) for each in (batch.word_starts, batch.word_ends, batch.word_mask)),
        )
        logits = self.replays.run(self, modules, tensors)[:, :num_words]
        if self.config.is_token_level:
            return TokenScores(logits, batch.word_mask, batch.label_mask)
        return SpanScores(logits.masked_fill(beyond(logits), 0.0), batch.word_mask, batch.label_mask)

    def _scores(self, batch: EncodedBatch, threshold: float, adjacency: float) -> Scores:
        if (modules := self._replayable(batch)) is not None:
            return self._replayed(batch, modules)
        states = self.backbone(batch.input_ids, batch.attention_mask)
        labels = self._label_vectors(states, batch)
        words = pool_words(states, batch.word_starts, batch.word_ends, batch.word_mask, self.config.subtoken_pooling)
        words = self.context(words, batch.word_counts)
        if self.fusion is not None:
            labels, words = self.fusion(labels, words, batch.label_mask, batch.word_mask)
        if hasattr(self, "labels"):
            labels = self.labels(labels)
        scores: Scores
        if self.config.is_token_level:
            scores = TokenScores(self.tokens(words, labels), batch.word_mask, batch.label_mask)
        else:
            scores = SpanScores(self.spans(words, labels, batch.word_mask), batch.word_mask, batch.label_mask)
        if not self.config.span_head and batch.relations is None:
            return scores
        shown = batch.candidates or spans_in(scores, threshold)
        vectors = self.spans.at(words, batch.word_mask, shown.bounds)
        if isinstance(scores, TokenScores) and batch.relations is None:
            return replace(scores, candidates=shown, head_logits=vectors @ labels.transpose(1, 2))
        assert batch.relations is not None
        asked = take(states, batch.relations.positions, batch.relations.mask)
        return replace(scores, relations=self.relations(vectors, shown, asked, batch.relations, adjacency))

    def _label_vectors(self, states: Tensor, batch: EncodedBatch) -> Tensor:
        """Label vectors (B, C, D): states of the prompt or, in a bi-encoder, vectors of their own."""
        if self.label_encoder is None:
            return take(states, batch.label_positions, batch.label_mask)
        vectors = batch.labels
        if isinstance(vectors, LabelTexts):
            vectors = self.label_encoder.pooled(vectors.input_ids, vectors.attention_mask)
        assert vectors is not None
        return vectors.to(states.dtype)[batch.label_positions].masked_fill(~batch.label_mask.unsqueeze(-1), 0.0)

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
        text, *labels = [
            Backbone(build_transformer(transformer_config(c)), config.hidden_size, fuse_layers=config.fuse_layers)
            for c in (config.backbone_config, config.label_backbone_config)[: 1 + config.is_bi_encoder]
        ]
        return GLiNER(config, text, *labels)


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
