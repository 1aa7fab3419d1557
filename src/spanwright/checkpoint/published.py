"""How published GLiNER checkpoints name things, as tables that are read in both directions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from spanwright.config import ModelConfig
from spanwright.errors import CheckpointError, ConfigError, require

CONFIG_FILE = "gliner_config.json"
WEIGHTS_FILE = "model.safetensors"
PICKLED_WEIGHTS_FILE = "pytorch_model.bin"

# our field <- published key
_FIELDS = {
    "backbone": "model_name",
    "backbone_config": "encoder_config",
    "hidden_size": "hidden_size",
    "dropout": "dropout",
    "max_width": "max_width",
    "max_words": "max_len",
    "subtoken_pooling": "subtoken_pooling",
    "num_rnn_layers": "num_rnn_layers",
    "rnn_dropout": "rnn_dropout",
    "label_at_marker": "embed_ent_token",
    "entity_token": "ent_token",
    "separator_token": "sep_token",
    "entity_token_id": "class_token_index",
    "vocab_size": "vocab_size",
    "word_splitter": "words_splitter_type",
    "span_mode": "span_mode",
    "span_head": "represent_spans",
    "fuse_layers": "fuse_layers",
    "label_backbone": "labels_encoder",
    "label_backbone_config": "labels_encoder_config",
    "fusion": "post_fusion_schema",
    "num_fusion_layers": "num_post_fusion_layers",
}
# those of relation models, which no other configuration has
_RELATION_FIELDS = {
    "adjacency": "relations_layer",
    "triples": "triples_layer",
    "relation_token": "rel_token",
    "relation_token_id": "rel_token_index",
    "relation_at_marker": "embed_rel_token",
}
# numbers, which training YAMLs may have written as strings
_NUMBERS: dict[str, type] = {
    "hidden_size": int,
    "max_width": int,
    "max_words": int,
    "num_rnn_layers": int,
    "vocab_size": int,
    "entity_token_id": int,
    "relation_token_id": int,
    "num_fusion_layers": int,
    "dropout": float,
    "rnn_dropout": float,
}
_DEFAULT_BACKBONE = "microsoft/deberta-v3-small"  # of configurations that name none
_OWN_SPLITTER = (
    "spanwright_word_splitter"  # a splitter that gliner lacks is kept here, and "whitespace" stands in there
)
# what gliner has no key for, and does not miss
_OWN = {"thresholds": "spanwright_thresholds", "calibration": "spanwright_calibration"}

# our parameter prefix <-> published prefix; the LSTM's layers are one module there
_PREFIXES = (
    ("backbone.transformer.", "token_rep_layer.bert_layer.model."),
    ("backbone.fuser.", "token_rep_layer.bert_layer.layers_fuser."),
    ("backbone.projection.", "token_rep_layer.projection."),
    ("label_encoder.transformer.", "token_rep_layer.labels_encoder.model."),
    ("label_encoder.fuser.", "token_rep_layer.labels_encoder.layers_fuser."),
    ("label_encoder.projection.", "token_rep_layer.labels_projection."),
    ("fusion.", "cross_fuser."),
    ("relations.adjacency.", "relations_rep_layer.relation_rep_layer."),
    ("relations.pairs.", "pair_rep_layer."),
    ("relations.triples.", "triples_score_layer.interaction."),
    ("labels.", "prompt_rep_layer."),
    ("tokens.", "scorer."),
    ("spans.conv_weight", "span_rep_layer.span_rep_layer.conv_weigth"),
    ("spans.", "span_rep_layer.span_rep_layer."),
)
_OUR_LSTM = re.compile(r"context\.layers\.(\d+)\.(.+)_l0((?:_reverse)?)$")
_PUBLISHED_LSTM = re.compile(r"rnn\.lstm\.(.+)_l(\d+)((?:_reverse)?)$")

# keys whose value says that a model has parts which this library does not build; its name, and the plain values
_NOT_BUILT = {
    "labels_decoder": ("a generative label decoder", (None,)),
    "span_encoder_config": ("a context encoder before its spans", (None,)),
    "precomputed_prompts_mode": ("precomputed prompts", (None, False)),
}

# parts that published models carry and never run: parameter prefix -> in which models
_NEVER_USED: tuple[tuple[str, Callable[[ModelConfig], bool]], ...] = (
    ("cross_fuser.", lambda config: not config.is_bi_encoder),
    ("rnn.", lambda config: config.is_bi_encoder),
    ("span_rep_layer.span_rep_layer.project_first.", lambda config: config.span_mode == "markerV1"),
    ("prompt_rep_layer.", lambda config: config.is_token_level and not config.finds_relations),
)


def config_from_published(values: Mapping[str, Any], place: str) -> ModelConfig:
    """The ModelConfig of a `gliner_config.json`. Keys that this library does not use are kept and handed on.

    Raises:
        CheckpointError: the architecture is one that this version does not build, or a value cannot be meant.

    """
    _require_built(values, place)
    ours: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    known = _FIELDS if values.get("relations_layer") is None else _FIELDS | _RELATION_FIELDS
    ours_of = {published: name for name, published in known.items()}
    for key, value in values.items():
        if key not in ours_of:
            rest[key] = value
        elif value is not None:
            ours[ours_of[key]] = value
    if _OWN_SPLITTER in rest:
        ours["word_splitter"] = rest.pop(_OWN_SPLITTER)
    for name, key in _OWN.items():
        if (value := rest.pop(key, None)) is not None:
            ours[name] = value
    if "num_rnn_layers" not in ours and "has_rnn" in values:  # configurations before gliner 0.2.23
        ours["num_rnn_layers"] = int(bool(values["has_rnn"]))
    if ours.get("span_mode") == "token-level":  # as gliner's documentation spells it
        ours["span_mode"] = "token_level"
    if ours.get("span_mode") != "token_level":  # gliner asks for it in no span model
        ours["span_head"] = False
    if "adjacency" in ours:
        layer = str(ours["adjacency"]).lower()
        ours |= {"adjacency": {"attn": "attention"}.get(layer, layer), "span_head": False, "label_backbone": None}
    ours.setdefault("backbone", _DEFAULT_BACKBONE)
    try:
        for name in ours.keys() & {"backbone_config", "label_backbone_config", "thresholds"}:
            require(isinstance(ours[name], Mapping), name, "be an object", ours[name])
        for name in ours.keys() & _NUMBERS.keys():
            ours[name] = _number(ours[name], _NUMBERS[name], name)
        return ModelConfig(published=rest, **ours)
    except (ConfigError, TypeError, ValueError) as error:
        names = _FIELDS | _RELATION_FIELDS | _OWN
        told = re.sub(r"`(\w+)`", lambda match: f"`{names.get(match[1], match[1])}`", str(error))
        raise CheckpointError(f"{place}: {told}") from None


def _number(value: Any, kind: type, name: str) -> Any:
    """A number as a JSON or a training YAML may write it: 12, 12.0 or "12"."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number != int(number)):
        raise ConfigError(f"`{name}` must be a {'whole ' * (kind is int)}number, but is {value!r}.")
    return kind(number)


def config_to_published(config: ModelConfig) -> dict[str, Any]:
    """The `gliner_config.json` of a model, as gliner reads it."""
    written: dict[str, Any] = {"model_type": None, "name": "gliner", "fine_tune": True}
    written |= dict(config.published)
    fields = _FIELDS | _RELATION_FIELDS if config.finds_relations else _FIELDS
    written |= {published: getattr(config, ours) for ours, published in fields.items()}
    for name in (
        "backbone_config",
        "label_backbone_config",
    ):  # gliner builds an encoder in the type that is told there, and the rest in float32
        encoder = dict(written[fields[name]] or {})
        told = {key: "float32" for key in ("dtype", "torch_dtype") if encoder.get(key)}
        written[fields[name]] = encoder | told
    written.pop("has_rnn", None)
    if not config.is_bi_encoder:
        written["labels_encoder_config"] = None
    if config.word_splitter != "whitespace":
        written |= {_FIELDS["word_splitter"]: "whitespace", _OWN_SPLITTER: config.word_splitter}
    return written | {key: getattr(config, name) for name, key in _OWN.items() if getattr(config, name)}


def to_published(name: str) -> str:
    """The published name of one of our parameters."""
    lstm = _OUR_LSTM.match(name)
    if lstm:
        return f"rnn.lstm.{lstm[2]}_l{lstm[1]}{lstm[3]}"
    for ours, published in _PREFIXES:
        if name.startswith(ours):
            return published + name[len(ours) :]
    raise KeyError(name)


def from_published(name: str) -> str | None:
    """Our name of a published parameter; None if it belongs to no part of this architecture."""
    lstm = _PUBLISHED_LSTM.match(name)
    if lstm:
        return f"context.layers.{lstm[2]}.{lstm[1]}_l0{lstm[3]}"
    for ours, published in _PREFIXES:
        if name.startswith(published):
            return ours + name[len(published) :]
    return None


def is_harmless(name: str) -> bool:
    """Whether an unexpected published tensor is one that older transformers stored although it is computed."""
    return name.endswith((".position_ids", ".token_type_ids", ".inv_freq"))


def rnn_layers_in(names: Iterable[str]) -> int:
    """How many LSTM layers a checkpoint's parameter names speak of."""
    found = [int(match[2]) for match in map(_PUBLISHED_LSTM.match, names) if match]
    return max(found, default=-1) + 1


def is_never_used(name: str, config: ModelConfig) -> bool:
    """Whether a published tensor belongs to a part that models of this configuration carry and never run."""
    return any(name.startswith(prefix) and applies(config) for prefix, applies in _NEVER_USED)


def _require_built(values: Mapping[str, Any], place: str) -> None:
    if values.get("model_type") == "gliner_streaming_span":
        raise CheckpointError(f"{place} holds a streaming model (causal), which Spanwright does not build. Use gliner.")
    for key, (name, plain) in _NOT_BUILT.items():
        if key == "labels_decoder" and values.get("relations_layer") is not None:
            continue  # gliner builds the relation model then
        if key in values and values[key] not in plain:
            raise CheckpointError(
                f"{place} holds a model with {name} (`{key}`), which Spanwright does not build. Use gliner for it."
            )
