"""Options as values: frozen, checked once, passed whole.

`from_mapping` builds any of them from a dictionary (TOML, JSON, `--set`) and refuses what it does not know.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spanwright.errors import ConfigError, nearest, require, require_choice

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
Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["linear", "cosine", "constant"]
Reduction = Literal["mean", "sum"]

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
        self._stated = stated
        self._met: dict[str, float | None] = {}  # labels come again with every text

    def __getitem__(self, label: str) -> float:
        if label not in self._met:
            name = label.strip().lower()
            self._met[label] = self._stated.get(name, self._stated.get(name.rpartition(" ")[2]))
        found = self._met[label]
        if found is None:
            raise KeyError(label)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._stated)

    def __len__(self) -> int:
        return len(self._stated)


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


@dataclass(frozen=True)
class NewModelOptions:
    """The shape of a model made anew from an encoder: section `[model]`. Without effect on a model that is loaded."""

    hidden_size: int = 512
    dropout: float = 0.4
    max_width: int = 12
    max_words: int = 384
    subtoken_pooling: Pooling = "first"
    num_rnn_layers: int = 1
    rnn_dropout: float = 0.0
    word_splitter: Splitter = "whitespace"
    span_mode: SpanMode = "markerV0"
    span_head: bool = False
    fuse_layers: bool = False
    adjacency: Adjacency | None = None
    triples: TripleScore | None = None


@dataclass(frozen=True)
class LossOptions:
    """Section `[loss]`: binary cross-entropy over cells, or focal loss where `focal_gamma` > 0.

    focal_alpha: weight of positives in [0, 1], negatives weigh 1 - alpha; -1 for none. reduction "mean" averages over
    real cells, so that neither padding nor accumulation changes the objective; "sum" is the published one. The weights
    are of the terms that a model may have beside each other: its entities, a span head, the adjacency of entities, and
    their relations.
    """

    focal_alpha: float = -1.0
    focal_gamma: float = 0.0
    prob_margin: float = 0.0
    label_smoothing: float = 0.0
    reduction: Reduction = "mean"
    entity_weight: float = 1.0
    head_weight: float = 1.0
    adjacency_weight: float = 1.0
    relation_weight: float = 1.0

    def __post_init__(self) -> None:
        require_choice("reduction", self.reduction, Reduction)
        require(self.focal_alpha <= 1, "focal_alpha", "be at most 1 (below 0 for none)", self.focal_alpha)
        require(self.focal_gamma >= 0, "focal_gamma", "be 0 or more", self.focal_gamma)
        require(0 <= self.prob_margin < 1, "prob_margin", "lie in [0, 1)", self.prob_margin)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "lie in [0, 1)", self.label_smoothing)
        for name in ("entity_weight", "head_weight", "adjacency_weight", "relation_weight"):
            require(getattr(self, name) >= 0, name, "be 0 or more", getattr(self, name))


@dataclass(frozen=True)
class LabelOptions:
    """Section `[labels]`: which labels a training row is asked.

    max_labels: a row asks all its own labels, then negatives from the inventory of its source up to this many.
    num_negatives: at most this many negatives instead (None: as many as fit). varied: how many a row gets is drawn anew
    each time, from one to as many as may be. stated_only: sources whose rows get no negatives but those that they
    state, where they state any: with an open vocabulary, a label drawn at random may well hold. max_relations: as
    max_labels, of the labels of relations.
    """

    max_labels: int = 25
    num_negatives: int | None = None
    varied: bool = False
    stated_only: tuple[str, ...] = ()
    max_relations: int = 25

    def __post_init__(self) -> None:
        require(self.max_labels >= 1, "max_labels", "be at least 1", self.max_labels)
        require(self.max_relations >= 1, "max_relations", "be at least 1", self.max_relations)
        require(
            self.num_negatives is None or self.num_negatives >= 0, "num_negatives", "be 0 or more", self.num_negatives
        )
        drawn = not self.varied or self.num_negatives != 0
        require(drawn, "num_negatives", "be at least 1 where it is `varied`", self.num_negatives)


@dataclass(frozen=True)
class MixtureOptions:
    """Section `[mixture]`: how often the rows of each source (key `src` of a line) are seen in an epoch.

    power: a source of n rows is drawn in proportion to n to this power: 1 as it is, 0 all alike. shares: sources that
    have a given share of an epoch's rows, in [0, 1]; the others divide the rest. An epoch has as many rows as the data;
    a source's rows come again only when all of them have come.
    """

    power: float = 1.0
    shares: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(0 <= self.power <= 1, "power", "lie in [0, 1]", self.power)
        for source, share in self.shares.items():
            require(_is_share(share), f"shares.{source}", "be a share in [0, 1]", share)
        total = sum(self.shares.values())
        require(total <= 1 + 1e-9, "shares", "sum to 1 at most", total)

    @property
    def is_plain(self) -> bool:
        """Whether every row comes once in an epoch."""
        return self.power == 1 and not self.shares


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


@dataclass(frozen=True)
class OptimizerOptions:
    """Section `[optimizer]`: AdamW with one rate for the backbone and one for everything else.

    warmup: share of all steps during which the rates rise from 0. max_grad_norm: clipping, 0 for none. beta2: how long
    AdamW remembers the size of gradients, 1 / (1 - beta2) steps: a loss that falls a hundredfold in the first steps is
    learnt from sooner with a shorter memory.
    """

    backbone_lr: float = 2e-5
    lr: float = 2e-4
    backbone_weight_decay: float = 0.01
    weight_decay: float = 0.01
    schedule: Schedule = "linear"
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    beta2: float = 0.999

    def __post_init__(self) -> None:
        require_choice("schedule", self.schedule, Schedule)
        for name in ("backbone_lr", "lr", "backbone_weight_decay", "weight_decay", "max_grad_norm"):
            require(getattr(self, name) >= 0, name, "be 0 or more", getattr(self, name))
        require(0 <= self.warmup <= 1, "warmup", "be a share in [0, 1]", self.warmup)
        require(0 < self.beta2 < 1, "beta2", "lie in (0, 1)", self.beta2)


@dataclass(frozen=True)
class ValidationOptions:
    """Section `[validation]`: when to measure, and how.

    every: steps between evaluations (0: once an epoch). patience: evaluations without a better micro F1 before
    training stops (0: never). threshold, overlap: as in DecodeOptions.
    """

    every: int = 0
    patience: int = 0
    threshold: float = DEFAULT_THRESHOLD
    overlap: Overlap = "flat"

    def __post_init__(self) -> None:
        require(self.every >= 0, "every", "be 0 or more", self.every)
        require(self.patience >= 0, "patience", "be 0 or more", self.patience)
        self.decode_options()

    def decode_options(self) -> DecodeOptions:
        """The same choice as DecodeOptions."""
        return DecodeOptions(threshold=self.threshold, overlap=self.overlap)


@dataclass(frozen=True)
class LoopOptions:
    """Section `[training]`.

    epochs: passes over the data; max_steps: optimizer updates, 0 for as many as the epochs give. batch_size: rows of a
    micro-batch; max_batch_tokens: padded subtokens of a micro-batch, whichever is reached first. accumulate:
    micro-batches of a step. freeze: parts held still ("backbone", module names, "backbone.layers:3" for its first
    three layers and embeddings). seed: decides new weights, dropout, the order of rows and the labels asked.
    save_every: steps between training states (0: once an epoch); keep_states: how many of the newest stay, beside that
    of the best step. num_workers: loader processes. index_above: MiB of a JSON-lines file above which its rows are not
    held, but read when they are needed. tracker: "tensorboard" or "none". grace_period: seconds that a run has after
    SIGTERM or SIGINT to finish its step and save. rank_timeout: seconds that processes wait for one of them before they
    end the run.
    """

    epochs: float = 5.0
    max_steps: int = 0
    batch_size: int = 8
    max_batch_tokens: int = 16384
    accumulate: int = 1
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    freeze: tuple[str, ...] = ()
    seed: int = 0
    save_every: int = 0
    keep_states: int = 2
    num_workers: int = 0
    index_above: int = 256
    tracker: Literal["none", "tensorboard"] = "none"
    grace_period: float = 25.0
    rank_timeout: float = 20.0

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, Precision)
        require_choice("tracker", self.tracker, Literal["none", "tensorboard"])
        require(self.epochs > 0, "epochs", "be above 0", self.epochs)
        for name in ("max_steps", "save_every", "num_workers", "seed", "index_above"):
            require(getattr(self, name) >= 0, name, "be 0 or more", getattr(self, name))
        for name in ("grace_period", "rank_timeout"):
            require(getattr(self, name) > 0, name, "be above 0", getattr(self, name))
        for name in ("batch_size", "max_batch_tokens", "accumulate", "keep_states"):
            require(getattr(self, name) >= 1, name, "be at least 1", getattr(self, name))


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run is told, section by section; read from TOML by `from_mapping`."""

    training: LoopOptions = LoopOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    labels: LabelOptions = LabelOptions()
    mixture: MixtureOptions = MixtureOptions()
    loss: LossOptions = LossOptions()
    validation: ValidationOptions = ValidationOptions()
    model: NewModelOptions = NewModelOptions()


Options = TypeVar("Options")


def from_mapping(kind: type[Options], values: Mapping[str, Any], place: str = "") -> Options:
    """An option class from a mapping, strictly.

    Raises:
        ConfigError: a key is unknown, or a value is not of its field's type. `place` prefixes the key in the message.

    """
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            owner = f"section [{place}]" if place else kind.__name__
            raise ConfigError(f"`{key}` is not a key of {owner}. {nearest(key, known)}")
        checked[key] = _checked(f"{place}.{key}" if place else key, value, hints[key])
    return kind(**checked)


def with_override(config: TrainConfig, assignment: str) -> TrainConfig:
    """`config` with one ``section.key=value`` replaced; the value is read as TOML, or as a string where it is none.

    Raises:
        ConfigError: the assignment has no ``=``, or names nothing.

    """
    name, equals, text = assignment.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"`--set {assignment}` must be section.key=value, as in `--set optimizer.lr=1e-4`.")
    sections = {f.name for f in fields(TrainConfig)}
    if section not in sections:
        raise ConfigError(f"`{section}` is not a section. {nearest(section, sections)}")
    old = getattr(config, section)
    changed = from_mapping(type(old), {key: toml_value(text.strip())}, section)
    return replace(config, **{section: replace(old, **{key: getattr(changed, key)})})


def toml_value(text: str) -> Any:
    """`text` as a TOML value: ``1e-4``, ``true``, ``["backbone"]``; anything that is none is a string."""
    try:
        return toml_loads(f"value = {text}")["value"]
    except ValueError:
        return text


def toml_loads(text: str) -> dict[str, Any]:
    """A TOML document as a dictionary. Raises ValueError where it is none."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    loaded: dict[str, Any] = toml.loads(text)
    return loaded


def _checked(place: str, value: Any, hint: Any) -> Any:
    """`value` as `hint` asks, with the conversions that TOML and JSON need: int to float, list to tuple."""
    origin = get_origin(hint)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"`{place}` must be a table, but is {value!r}.")
        return from_mapping(hint, value, place)  # type: ignore[arg-type]
    if origin is Literal:
        require_choice(place, value, hint)
        return value
    if origin in (Union, types.UnionType):
        return _checked_union(place, value, get_args(hint))
    if origin is tuple:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"`{place}` must be a list, but is {value!r}.")
        return tuple(_checked(place, item, get_args(hint)[0]) for item in value)
    wanted = Mapping if origin is not None else hint
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"`{place}` must be of type {getattr(hint, '__name__', hint)}, but is {value!r}.")
    return value


def _checked_union(place: str, value: Any, hints: tuple[Any, ...]) -> Any:
    if value is None and type(None) in hints:
        return None
    problems = []
    for hint in hints:
        if hint is type(None):
            continue
        try:
            return _checked(place, value, hint)
        except ConfigError as error:
            problems.append(error)
    raise problems[0]
