"""What a training run is told, as values: the sections of its TOML file, and their strict reading.

`from_mapping` builds any of them from a dictionary (TOML, JSON, `--set`) and refuses what it does not know.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spanwright.config import (
    DEFAULT_THRESHOLD,
    Adjacency,
    DecodeOptions,
    Overlap,
    Pooling,
    SpanMode,
    Splitter,
    TripleScore,
)
from spanwright.errors import ConfigError, nearest, require, require_choice

Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["linear", "cosine", "constant"]
Reduction = Literal["mean", "sum"]


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
