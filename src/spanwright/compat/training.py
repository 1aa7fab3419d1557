"""gliner's training arguments and data, as Spanwright's options and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spanwright.config import (
    LoopOptions,
    LossOptions,
    ModelConfig,
    OptimizerOptions,
    TrainConfig,
    ValidationOptions,
    from_mapping,
)
from spanwright.entities import Example, RelationGold, Span, SpanRelation
from spanwright.errors import ConfigError, DataError, nearest

# gliner's name of a training argument -> section and key of TrainConfig
_TRAINING = {
    "learning_rate": ("optimizer", "backbone_lr"),
    "others_lr": ("optimizer", "lr"),
    "weight_decay": ("optimizer", "backbone_weight_decay"),
    "others_weight_decay": ("optimizer", "weight_decay"),
    "lr_scheduler_type": ("optimizer", "schedule"),
    "warmup_ratio": ("optimizer", "warmup"),
    "max_grad_norm": ("optimizer", "max_grad_norm"),
    "per_device_train_batch_size": ("training", "batch_size"),
    "gradient_accumulation_steps": ("training", "accumulate"),
    "gradient_checkpointing": ("training", "gradient_checkpointing"),
    "num_train_epochs": ("training", "epochs"),
    "max_steps": ("training", "max_steps"),
    "save_steps": ("training", "save_every"),
    "dataloader_num_workers": ("training", "num_workers"),
    "seed": ("training", "seed"),
    "eval_steps": ("validation", "every"),
    "focal_loss_alpha": ("loss", "focal_alpha"),
    "focal_loss_gamma": ("loss", "focal_gamma"),
    "focal_loss_prob_margin": ("loss", "prob_margin"),
    "label_smoothing": ("loss", "label_smoothing"),
    "loss_reduction": ("loss", "reduction"),
}
_GLINER_DEFAULTS = {
    "learning_rate": 5e-5,
    "weight_decay": 0.01,
    "warmup_ratio": 0.1,
    "per_device_train_batch_size": 8,
    "loss_reduction": "sum",
}
# what gliner writes into a model's configuration and weighs the terms of its loss by -> key of LossOptions
_LOSS_WEIGHTS = {
    "token_loss_coef": "entity_weight",
    "span_loss_coef": "head_weight",
    "adjacency_loss_coef": "adjacency_weight",
    "relation_loss_coef": "relation_weight",
}
_COMPONENTS = {"text_encoder": "backbone", "labels_encoder": "label_encoder"}


def training_config(
    arguments: Mapping[str, Any],
    freeze_components: Sequence[str] = (),
    *,
    bf16: bool = False,
    fp16: bool = False,
    model: ModelConfig | None = None,
) -> TrainConfig:
    """Spanwright's options for gliner's training arguments, and for what `model` says of its loss.

    Raises:
        ConfigError: an argument is unknown.

    """
    sections: dict[str, dict[str, Any]] = {"optimizer": {}, "training": {}, "validation": {}, "loss": {}}
    given: dict[str, Any] = _GLINER_DEFAULTS | dict(arguments)
    given.setdefault("others_lr", given["learning_rate"])
    given.setdefault("others_weight_decay", given["weight_decay"])
    if not {"max_steps", "num_train_epochs"} & given.keys():
        given["max_steps"] = 10_000
    if given.get("max_steps", 0) < 0:  # "no limit" there
        given["max_steps"] = 0
    for name, value in given.items():
        if name not in _TRAINING:
            raise ConfigError(f"`{name}` is not a training argument here. {nearest(name, _TRAINING)}")
        section, key = _TRAINING[name]
        sections[section][key] = value
    sections["loss"] |= _loss_weights(model)
    sections["training"]["freeze"] = tuple(_COMPONENTS.get(name, name) for name in freeze_components)
    sections["training"]["precision"] = "bf16" if bf16 else "fp16" if fp16 else "fp32"
    return TrainConfig(
        training=from_mapping(LoopOptions, sections["training"]),
        optimizer=from_mapping(OptimizerOptions, sections["optimizer"]),
        loss=from_mapping(LossOptions, sections["loss"]),
        validation=from_mapping(ValidationOptions, sections["validation"]),
    )


def _loss_weights(model: ModelConfig | None) -> dict[str, float]:
    """Weights of the terms of a loss, which gliner applies to models that have several terms, and to no other."""
    if model is None or not (model.finds_relations or model.span_head):
        return {}
    weights = {ours: float(model.published.get(name, 1.0)) for name, ours in _LOSS_WEIGHTS.items()}
    if model.finds_relations:  # there the entities' own loss goes by the name of spans
        weights["entity_weight"] = weights.pop("head_weight")
    return weights


def examples_of(data: Sequence[Mapping[str, Any]]) -> list[Example]:
    """Gliner's dictionaries as examples."""
    return [_example(index, item) for index, item in enumerate(data)]


def _example(index: int, item: Mapping[str, Any]) -> Example:
    try:
        words = list(item["tokenized_text"])
        spans = [Span(first, last + 1, label) for first, last, label in item.get("ner") or ()]
        related = item.get("relations")
        relations = [_relation(spans, *relation) for relation in related or ()]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise DataError(
            f"Example {index} must have `tokenized_text` (words), `ner` ([first, last, label] of each) and, if any, "
            f"`relations` ([head, tail, label], by place in `ner`), but is {str(item)[:80]}."
        ) from None
    wrong = [span for span in spans if not 0 <= span.start < span.end <= len(words)]
    if wrong:
        raise DataError(
            f"Example {index}: a span must lie within its {len(words)} words, but is "
            f"[{wrong[0].start}, {wrong[0].end - 1}]."
        )
    gold = None
    if related is not None:
        listed = _listed(item, "rel_labels", [relation.label for relation in relations])
        gold = RelationGold(tuple(relations), listed, tuple(item.get("rel_negatives") or ()))
    return Example.from_words(
        words,
        spans,
        labels=_listed(item, "ner_labels", [span.label for span in spans]),
        negatives=tuple(item.get("ner_negatives") or ()),
        gold_relations=gold,
        origin=f"example {index}",
    )


def _relation(spans: Sequence[Span], head: int, tail: int, label: str) -> SpanRelation:
    if min(head, tail) < 0:
        raise IndexError("counted from the end")
    return SpanRelation(spans[head], spans[tail], label)


def _listed(item: Mapping[str, Any], key: str, own: Sequence[str]) -> tuple[str, ...] | None:
    """The labels that an example lists, with its own; None where it lists none."""
    return None if item.get(key) is None else tuple(dict.fromkeys((*item[key], *own)))
