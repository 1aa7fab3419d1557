"""What a model is, and which of its scored spans become entities, as values: frozen, checked once, passed whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from spanwright.errors import ConfigError, require, require_choice

Overlap = Literal["flat", "nested"]
Pooling = Literal["first", "last", "mean", "max"]
SpanMode = Literal[
    "markerV0",
    "marker",
    "markerV1",
    "markerV2",
    "query",
    "mlp",
    "cat",
    "conv_conv",
    "conv_max",
    "conv_mean",
    "conv_sum",
    "conv_share",
    "token_level",
]
# how a relation model judges whether two entities belong together at all; "none" scores every pair
Adjacency = Literal["dot", "mlp", "attention", "bilinear", "gcn", "gat", "none"]
TripleScore = Literal[
    "UM",
    "SE",
    "TransE",
    "TransH",
    "TransF",
    "PairRE",
    "TripleRE",
    "DistMult",
    "DistMA",
    "SimplE",
    "ComplEx",
    "QuatE",
    "HolE",
    "TuckER",
    "ERMLP",
    "ConvKB",
]
Splitter = Literal["whitespace", "script"]

DEFAULT_THRESHOLD = 0.5
FUSION_STEPS = {"l2l", "t2t", "l2t", "t2l"}


@dataclass(frozen=True)
class DecodeOptions:
    """Which scored spans become entities.

    threshold: least score kept (exclusive), one for all labels or one for each; a label absent from the mapping takes
    0.5. None: what the model's package says of each label, else 0.5. overlap: "flat" lets no two entities share a word,
    "nested" lets one lie within another. multi_label: the same span may carry several labels. relation_threshold: as
    threshold, of a relation model's relations. adjacency_threshold: how near, in (0, 1), two entities must be for the
    model to look for a relation. Both default to `threshold` where that is one number, else to 0.5.
    """

    threshold: float | Mapping[str, float] | None = None
    overlap: Overlap = "flat"
    multi_label: bool = False
    relation_threshold: float | Mapping[str, float] | None = None
    adjacency_threshold: float | None = None

    def __post_init__(self) -> None:
        require_choice("overlap", self.overlap, Overlap)
        for name in ("threshold", "relation_threshold", "adjacency_threshold"):
            if getattr(self, name) is not None:
                _require_threshold(name, getattr(self, name))

    def least_threshold(self) -> float:
        """The lowest threshold that a label may have."""
        if isinstance(self.threshold, Mapping):
            return min([DEFAULT_THRESHOLD, *self.threshold.values()])
        return self._single()

    def threshold_of(self, label: str) -> float:
        """The least score (exclusive) at which `label` is kept."""
        return _threshold_of(DEFAULT_THRESHOLD if self.threshold is None else self.threshold, label)

    def relation_threshold_of(self, label: str) -> float:
        """The least score (exclusive) at which relation `label` is kept."""
        return _threshold_of(self._single() if self.relation_threshold is None else self.relation_threshold, label)

    def least_adjacency(self) -> float:
        """The least adjacency (exclusive) of two entities that may be related."""
        return self._single() if self.adjacency_threshold is None else self.adjacency_threshold

    def decided(self, own: Mapping[str, float]) -> DecodeOptions:
        """With a threshold: the own ones of a model where none is given."""
        if self.threshold is not None:
            return self
        return replace(self, threshold=OwnThresholds(own) if own else DEFAULT_THRESHOLD)

    def _single(self) -> float:
        if self.threshold is None or isinstance(self.threshold, Mapping):
            return DEFAULT_THRESHOLD
        return float(self.threshold)


def _threshold_of(threshold: float | Mapping[str, float], label: str) -> float:
    if isinstance(threshold, Mapping):
        return float(threshold.get(label, DEFAULT_THRESHOLD))
    return float(threshold)


def _require_threshold(name: str, threshold: object) -> None:
    named = threshold.items() if isinstance(threshold, Mapping) else [("", threshold)]
    for label, value in named:
        place = f"{name}[{label!r}]" if label else name
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"`{place}` must be a number in [0, 1], but is {value!r}.")
        require(0.0 <= value <= 1.0, place, "lie in [0, 1]", value)


class OwnThresholds(Mapping[str, float]):
    """What a model says of labels: of one by its name, else by its last word, as a "football club" is a club."""

    def __init__(self, stated: Mapping[str, float]) -> None:
        self._stated = {_plain(label): threshold for label, threshold in stated.items()}
        self._met: dict[str, float | None] = {}  # labels come again with every text

    def __getitem__(self, label: str) -> float:
        if label not in self._met:
            name = _plain(label)
            self._met[label] = self._stated.get(name, self._stated.get(name.rpartition(" ")[2]))
        found = self._met[label]
        if found is None:
            raise KeyError(label)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._stated)

    def __len__(self) -> int:
        return len(self._stated)


def _plain(label: str) -> str:
    return label.strip().lower()


@dataclass(frozen=True)
class ModelConfig:
    """The network's shape. Sizes are in features, widths and lengths in words.

    backbone: name or folder of the pretrained transformer; backbone_config: its Hugging Face configuration.
    hidden_size D; a projection is built where it differs from the backbone's. num_rnn_layers: 0 for no BiLSTM;
    rnn_dropout acts between its layers. label_at_marker: a label's vector is the state at its marker (True) or at the
    subtoken after it. entity_token_id: vocabulary id of `entity_token`. published: keys of a published configuration
    that this library does not use and hands on unchanged.

    span_mode: how spans are represented, or "token_level": each word is scored as start, end and inside of an entity,
    of any width; span_head: such a model scores the spans found by a second head. fuse_layers: all layers of the
    backbone count, not the last alone. label_backbone: name of a second transformer that reads the labels
    (bi-encoder), label_backbone_config its configuration. fusion: steps in which a bi-encoder's labels and words
    attend to each other ("l2l-t2t-l2t-t2l"), num_fusion_layers times; "" for none.

    adjacency: of a relation model, which entities it pairs; None for a model that knows no relations. triples: how a
    pair is scored, a function of knowledge graphs; None for a projection of the two. relation_token, its id and
    relation_at_marker: as those of entities.

    thresholds: least scores kept of labels, or of all labels that end in a word, where a call names none (fitted on
    data that is not trained on). calibration: slope and shift that make a score's logit that of how often it is right.
    """

    backbone: str
    backbone_config: Mapping[str, Any] = field(default_factory=dict)
    hidden_size: int = 512
    dropout: float = 0.4
    max_width: int = 12
    max_words: int = 384
    subtoken_pooling: Pooling = "first"
    num_rnn_layers: int = 1
    rnn_dropout: float = 0.0
    label_at_marker: bool = True
    entity_token: str = "<<ENT>>"
    separator_token: str = "<<SEP>>"
    entity_token_id: int = -1
    vocab_size: int = -1
    word_splitter: Splitter = "whitespace"
    span_mode: SpanMode = "markerV0"
    span_head: bool = False
    fuse_layers: bool = False
    label_backbone: str | None = None
    label_backbone_config: Mapping[str, Any] = field(default_factory=dict)
    fusion: str = ""
    num_fusion_layers: int = 1
    adjacency: Adjacency | None = None
    triples: TripleScore | None = None
    relation_token: str = "<<REL>>"
    relation_token_id: int = -1
    relation_at_marker: bool = True
    thresholds: Mapping[str, float] = field(default_factory=dict)
    calibration: Sequence[float] | None = None
    published: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_choice("subtoken_pooling", self.subtoken_pooling, Pooling)
        require_choice("word_splitter", self.word_splitter, Splitter)
        require(self.hidden_size > 0, "hidden_size", "be positive", self.hidden_size)
        halved = self.num_rnn_layers > 0 and not self.is_bi_encoder  # between the LSTM's two directions
        require(not halved or self.hidden_size % 2 == 0, "hidden_size", "be even with an LSTM", self.hidden_size)
        require(self.max_width >= 1, "max_width", "be at least 1", self.max_width)
        require(self.max_words >= 1, "max_words", "be at least 1", self.max_words)
        require(self.num_rnn_layers >= 0, "num_rnn_layers", "be 0 or more", self.num_rnn_layers)
        require(0 <= self.dropout < 1, "dropout", "lie in [0, 1)", self.dropout)
        require(0 <= self.rnn_dropout < 1, "rnn_dropout", "lie in [0, 1)", self.rnn_dropout)
        require_choice("span_mode", self.span_mode, SpanMode)
        require(self.num_fusion_layers >= 1, "num_fusion_layers", "be at least 1", self.num_fusion_layers)
        steps = self.fusion.split("-") if self.fusion else []
        require(set(steps) <= FUSION_STEPS, "fusion", f"join {', '.join(sorted(FUSION_STEPS))} by '-'", self.fusion)
        require(not self.span_head or self.is_token_level, "span_head", "be False in a span model", self.span_head)
        _require_threshold("thresholds", self.thresholds)
        fits = self.calibration is None or (len(self.calibration) == 2 and all(map(math.isfinite, self.calibration)))
        require(fits, "calibration", "be a slope and a shift", self.calibration)
        self._check_relations()

    def _check_relations(self) -> None:
        if not self.finds_relations:
            require(self.triples is None, "triples", "be None without `adjacency`", self.triples)
            return
        require_choice("adjacency", self.adjacency, Adjacency)
        if self.triples is not None:
            require_choice("triples", self.triples, TripleScore)
        require(not self.is_bi_encoder, "label_backbone", "be None in a relation model", self.label_backbone)
        require(not self.span_head, "span_head", "be False in a relation model", self.span_head)
        parts = {"attention": 8, "gat": 8}.get(self.adjacency or "", 4 if self.triples == "QuatE" else 2)
        rule = f"be a multiple of {parts} for its relation part"
        require(self.hidden_size % parts == 0, "hidden_size", rule, self.hidden_size)

    @property
    def finds_relations(self) -> bool:
        """Whether the model finds relations between entities."""
        return self.adjacency is not None

    @property
    def is_token_level(self) -> bool:
        """Whether words are scored, not spans."""
        return self.span_mode == "token_level"

    @property
    def is_bi_encoder(self) -> bool:
        """Whether a transformer of their own reads the labels."""
        return self.label_backbone is not None

    @property
    def reach(self) -> int | None:
        """The widest span that the model can find, in words; None for any."""
        return None if self.is_token_level else self.max_width
