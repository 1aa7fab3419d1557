"""gliner's training arguments as Spanwright's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spanwright.config import ModelConfig
from spanwright.errors import ConfigError, nearest
from spanwright.train_config import (
    LoopOptions,
    LossOptions,
    OptimizerOptions,
    TrainConfig,
    ValidationOptions,
    from_mapping,
)

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
    "save_total_limit": ("training", "keep_states"),
    "report_to": ("training", "tracker"),
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
_LOGGING_STEPS = 10  # gliner's default
_COMPONENTS = {"text_encoder": "backbone", "labels_encoder": "label_encoder"}


# arguments that change neither the result nor how it is reached here
_NEEDLESS = {
    "cache_dir",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "dice_gamma",
    "disable_tqdm",
    "do_eval",
    "do_train",
    "logging_dir",
    "logging_first_step",
    "logging_strategy",
    "overwrite_output_dir",
    "per_device_eval_batch_size",
    "remove_unused_columns",
    "run_name",
    "save_safetensors",
}
# argument -> the values that ask for what is done anyway
_PLAIN: dict[str, tuple[Any, ...]] = {
    "negatives": (None, 1.0),
    "masking": (None, "none"),
    "loss_type": (None, "focal"),
    "use_span_width_weight": (None, False),
    "optim": ("adamw_torch", "adamw_torch_fused", "adamw_hf"),
    "load_best_model_at_end": (True,),
}


def training_config(
    arguments: Mapping[str, Any],
    freeze_components: Sequence[str] | None = None,
    *,
    bf16: bool = False,
    fp16: bool = False,
    model: ModelConfig | None = None,
) -> TrainConfig:
    """Spanwright's options for gliner's training arguments, and for what `model` says of its loss.

    Raises:
        ConfigError: an argument is unknown or cannot be honoured.

    """
    sections: dict[str, dict[str, Any]] = {"optimizer": {}, "training": {}, "validation": {}, "loss": {}}
    for name, value in _translated(_GLINER_DEFAULTS | dict(arguments)).items():
        if name not in _TRAINING:
            known = {*_TRAINING, *_NEEDLESS, *_PLAIN, "eval_strategy", "save_strategy", "warmup_steps"}
            raise ConfigError(f"`{name}` is not a training argument here. {nearest(name, known)}")
        section, key = _TRAINING[name]
        sections[section][key] = value
    sections["loss"] |= _loss_weights(model)
    sections["training"]["freeze"] = tuple(_COMPONENTS.get(name, name) for name in freeze_components or ())
    sections["training"]["precision"] = "bf16" if bf16 else "fp16" if fp16 else "fp32"
    return TrainConfig(
        training=from_mapping(LoopOptions, sections["training"]),
        optimizer=from_mapping(OptimizerOptions, sections["optimizer"]),
        loss=from_mapping(LossOptions, sections["loss"]),
        validation=from_mapping(ValidationOptions, sections["validation"]),
    )


def evaluates(arguments: Mapping[str, Any]) -> bool:
    """Whether gliner's arguments let a run evaluate; they do where they say nothing of it."""
    return _strategy(arguments, "eval_strategy", "evaluation_strategy") != "no"


def _translated(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments under names of `_TRAINING`, with values that Spanwright takes."""
    _require_plain(given)
    for name in ("others_lr", "others_weight_decay", "save_total_limit"):
        if given.get(name) is None:
            given.pop(name, None)
    given.setdefault("others_lr", given["learning_rate"])
    given.setdefault("others_weight_decay", given["weight_decay"])
    if not {"max_steps", "num_train_epochs"} & given.keys():
        given["max_steps"] = 10_000
    if given.get("max_steps", 0) < 0:  # "no limit" there
        given["max_steps"] = 0
    _translate_strategies(given)
    _translate_schedule(given)
    if "report_to" in given:
        given["report_to"] = _tracker(given["report_to"])
    return {name: value for name, value in given.items() if name not in _NEEDLESS | _PLAIN.keys()}


def _require_plain(given: dict[str, Any]) -> None:
    for name, allowed in _PLAIN.items():
        if name in given and given[name] not in allowed:
            raise ConfigError(f"`{name}` must be {allowed[-1]!r}, but is {given[name]!r}, which is not offered here.")
    for name in ("alpha", "gamma"):
        entities, relations = given.get(f"focal_loss_{name}"), given.pop(f"rel_focal_loss_{name}", None)
        if relations is not None and relations != entities:
            raise ConfigError(
                f"`rel_focal_loss_{name}` must be that of entities, but is {relations!r} beside {entities!r}: one loss "
                "serves both here. Leave it out."
            )


def _translate_strategies(given: dict[str, Any]) -> None:
    """When to evaluate and to save. "epoch" is what 0 steps mean here."""
    evaluation = _strategy(given, "eval_strategy", "evaluation_strategy")
    saving = _strategy(given, "save_strategy")
    logging = given.pop("logging_steps", None)
    for name in ("eval_strategy", "evaluation_strategy", "save_strategy"):
        given.pop(name, None)
    if evaluation == "steps" and given.get("eval_steps") is None:  # as transformers has it
        given["eval_steps"] = logging or _LOGGING_STEPS
    if evaluation in ("epoch", "no") or given.get("eval_steps", 0) is None:
        given["eval_steps"] = 0
    if saving in ("epoch", "no", "best") or given.get("save_steps", 0) is None:
        given["save_steps"] = 0


def _strategy(given: Mapping[str, Any], *names: str) -> str | None:
    """What is given under one of the names, a word or an enumeration's member."""
    value = next((given[name] for name in names if given.get(name) is not None), None)
    word = getattr(value, "value", value)
    if word not in (None, "no", "steps", "epoch", "best"):
        raise ConfigError(f'`{names[0]}` must be "no", "steps" or "epoch", but is {word!r}.')
    return word


def _translate_schedule(given: dict[str, Any]) -> None:
    """Warm-up is a share here, and every schedule has one; gliner's "constant" has none."""
    steps = given.pop("warmup_steps", None)
    schedule = getattr(given.get("lr_scheduler_type"), "value", given.get("lr_scheduler_type"))
    if steps and not given.get("max_steps"):
        raise ConfigError("`warmup_steps` must stand beside `max_steps`, but stands alone. Give `warmup_ratio`.")
    if steps:
        given["warmup_ratio"] = min(steps / given["max_steps"], 1.0)
    if schedule == "constant":
        given["warmup_ratio"] = 0.0
    if schedule is not None:
        given["lr_scheduler_type"] = schedule.removesuffix("_with_warmup") if isinstance(schedule, str) else schedule


def _tracker(report_to: Any) -> str:
    asked = {report_to} if isinstance(report_to, str) else set(report_to or ())
    for name in asked - {"none", "tensorboard"}:
        raise ConfigError(f'`report_to` must be "none" or "tensorboard", but is {name!r}. `metrics.jsonl` has it all.')
    return "tensorboard" if "tensorboard" in asked else "none"


def _loss_weights(model: ModelConfig | None) -> dict[str, float]:
    """Weights of the terms of a loss, which gliner applies to models that have several terms, and to no other."""
    if model is None or not (model.finds_relations or model.span_head):
        return {}
    weights = {ours: float(model.published.get(name, 1.0)) for name, ours in _LOSS_WEIGHTS.items()}
    if model.finds_relations:  # there the entities' own loss goes by the name of spans
        weights["entity_weight"] = weights.pop("head_weight")
    return weights
