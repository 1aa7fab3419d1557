"""gliner's calls: change the import line, keep the script.

    from spanwright.compat.gliner import GLiNER   # was: from gliner import GLiNER

The arguments and the dictionaries are gliner's; the modes, the windows over long texts and the errors are Spanwright's.
What cannot be honoured is refused in one sentence, never swallowed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spanwright.config import (
    DecodeOptions,
    LoopOptions,
    LossOptions,
    ModelConfig,
    OptimizerOptions,
    TrainConfig,
    ValidationOptions,
    from_mapping,
)
from spanwright.entities import Example, Span
from spanwright.errors import ConfigError, DataError, nearest
from spanwright.evaluation import evaluate
from spanwright.extractor import Extractor, LabelVectors, checked_labels
from spanwright.model import GLiNER as Network
from spanwright.training import train

Entities = list[dict[str, Any]]
LabelNames = str | Sequence[str] | Mapping[str, str]

# arguments of gliner's loader that change nothing here: the hub's cache decides, or it is always so
_NEEDLESS = {
    "cache_dir",
    "force_download",
    "proxies",
    "resume_download",
    "token",
    "local_files_only",
    "strict",
    "load_tokenizer",
    "resize_token_embeddings",
    "low_cpu_mem_usage",
}
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
_COMPONENTS = {"text_encoder": "backbone", "labels_encoder": "label_encoder"}


class GLiNER:
    """A model behind gliner's calls. `extractor` is what answers; `model` the network."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path,
        *,
        revision: str | None = None,
        map_location: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        variant: str | None = None,
        **others: Any,
    ) -> GLiNER:
        """The model in a folder, or of that name on the hub.

        Raises:
            CheckpointError: there is no such model, or it is damaged or of another kind.
            ConfigError: an argument is unknown or cannot be honoured.

        """
        for name in others.keys() - _NEEDLESS:
            raise ConfigError(f"`{name}` is not an argument of `from_pretrained` here. {nearest(name, _NEEDLESS)}")
        return cls(
            Extractor.from_pretrained(model_id, device=map_location, dtype=dtype, revision=revision, variant=variant)
        )

    @property
    def model(self) -> Network:
        """The network."""
        return self.extractor.model

    @property
    def config(self) -> ModelConfig:
        """The network's shape, under Spanwright's names."""
        return self.extractor.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.extractor.model.device

    def to(self, *where: Any) -> GLiNER:
        """Move the weights."""
        self.extractor.model.to(*where)
        return self

    def eval(self) -> GLiNER:
        """Nothing to do: no answer here depends on the mode that the model rests in."""
        return self

    def predict_entities(
        self,
        text: str,
        labels: LabelNames,
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
    ) -> Entities:
        """The entities of one text: dictionaries of start, end, text, label, score."""
        return self.inference([text], labels, flat_ner=flat_ner, threshold=threshold, multi_label=multi_label)[0]

    def inference(
        self,
        texts: str | Sequence[str],
        labels: LabelNames | Sequence[Sequence[str]],
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        batch_size: int = 8,
    ) -> list[Entities]:
        """The entities of each text. `batch_size` is not needed: batches are made by length and memory.

        `labels` are names, one name, one list per text, or a mapping of names to descriptions, which are asked for.

        Raises:
            DataError: a label is empty or not a string.

        """
        given = [texts] if isinstance(texts, str) else list(texts)
        unread: list[Any] = list(given)  # None, too, gives no entities, as in gliner
        readable = [text if isinstance(text, str) else "" for text in unread]
        names, asked = _named(labels)
        options = _decode(flat_ner, threshold, multi_label)
        found = self.extractor.extract_many(readable, asked, options)
        return [_dictionaries(entities, names) for entities in found]

    def batch_predict_entities(self, texts: Sequence[str], labels: LabelNames, **options: Any) -> list[Entities]:
        """As `inference`, which gliner recommends instead."""
        warnings.warn("`batch_predict_entities` is deprecated in gliner: use `inference`.", FutureWarning, stacklevel=2)
        return self.inference(texts, labels, **options)

    def encode_labels(self, labels: Sequence[str], batch_size: int = 8) -> torch.Tensor:
        """Label vectors (C, D) of a bi-encoder. `batch_size` is not needed.

        Raises:
            ConfigError: the model is no bi-encoder.

        """
        return self.extractor.encode_labels(labels).vectors

    def batch_predict_with_embeds(
        self,
        texts: Sequence[str],
        labels_embeddings: torch.Tensor,
        labels: Sequence[str],
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        batch_size: int = 8,
    ) -> list[Entities]:
        """The entities of each text, for labels whose vectors `encode_labels` gave.

        Raises:
            DataError: there are not as many vectors as labels.

        """
        names = checked_labels(labels)
        if len(names) != len(labels_embeddings):
            raise DataError(f"`labels` must be {len(labels_embeddings)} as the vectors are, but are {len(names)}.")
        now = self.extractor.encode_labels(names[:1])  # says of which weights vectors are
        vectors = LabelVectors(names, labels_embeddings, now.weights)
        found = self.extractor.extract_many(texts, vectors, _decode(flat_ner, threshold, multi_label))
        return [_dictionaries(entities, None) for entities in found]

    def predict_with_embeds(
        self, text: str, labels_embeddings: torch.Tensor, labels: Sequence[str], **options: Any
    ) -> Entities:
        """As `batch_predict_with_embeds`, for one text."""
        return self.batch_predict_with_embeds([text], labels_embeddings, labels, **options)[0]

    def evaluate(
        self,
        test_data: Sequence[Mapping[str, Any]],
        flat_ner: bool = False,
        multi_label: bool = False,
        threshold: float = 0.5,
        batch_size: int = 12,
        entity_types: Sequence[str] | None = None,
    ) -> tuple[str, float]:
        """Precision, recall and F1 (micro, exact match) in a line, and F1.

        Without `entity_types`, every example is asked all labels of the data; gliner asks labels drawn at random,
        which is easier and another score each time.

        Raises:
            DataError: an example cannot be read.

        """
        options = _decode(flat_ner, threshold, multi_label)
        micro = evaluate(self.extractor, _examples(test_data), entity_types, options).micro
        return f"P: {micro.precision:.2%}\tR: {micro.recall:.2%}\tF1: {micro.f1:.2%}\n", micro.f1

    def train_model(
        self,
        train_dataset: Sequence[Mapping[str, Any]],
        eval_dataset: Sequence[Mapping[str, Any]] | None = None,
        *,
        output_dir: str | Path,
        freeze_components: Sequence[str] = (),
        bf16: bool = False,
        fp16: bool = False,
        **arguments: Any,
    ) -> GLiNER:
        """Fine-tune in place, with gliner's training arguments, its defaults and its objective (the sum).

        The best model by F1 on `eval_dataset`, or the last without, is in memory and in `output_dir` afterwards.

        Raises:
            ConfigError: an argument is unknown here; Spanwright's own names are in docs/guide/train.md.
            DataError: an example cannot be read.
            TrainingError: the run cannot go on.

        """
        config = training_config(arguments, freeze_components, bf16=bf16, fp16=fp16)
        dev = None if eval_dataset is None else _examples(eval_dataset)
        train(self.extractor, _examples(train_dataset), dev, output=output_dir, config=config)
        return self

    def save_pretrained(self, save_directory: str | Path, safe_serialization: bool = True) -> None:
        """Write the model in the published format, always as safetensors.

        Raises:
            CheckpointError: the folder cannot be written; what it held before is untouched.

        """
        self.extractor.save(save_directory)

    def predict_relations(self, *arguments: Any, **options: Any) -> None:
        """Not there yet.

        Raises:
            ConfigError: always.

        """
        raise ConfigError("`predict_relations` needs a relation model, which Spanwright does not build. Use gliner.")


def training_config(
    arguments: Mapping[str, Any], freeze_components: Sequence[str] = (), *, bf16: bool = False, fp16: bool = False
) -> TrainConfig:
    """Spanwright's options for gliner's training arguments.

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
    sections["training"]["freeze"] = tuple(_COMPONENTS.get(name, name) for name in freeze_components)
    sections["training"]["precision"] = "bf16" if bf16 else "fp16" if fp16 else "fp32"
    return TrainConfig(
        training=from_mapping(LoopOptions, sections["training"]),
        optimizer=from_mapping(OptimizerOptions, sections["optimizer"]),
        loss=from_mapping(LossOptions, sections["loss"]),
        validation=from_mapping(ValidationOptions, sections["validation"]),
    )


def _decode(flat_ner: bool, threshold: float, multi_label: bool) -> DecodeOptions:
    return DecodeOptions(threshold=threshold, overlap="flat" if flat_ner else "nested", multi_label=multi_label)


def _named(labels: Any) -> tuple[dict[str, str] | None, Any]:
    """What to ask, and the name of each description where labels are given as a mapping."""
    if isinstance(labels, str):
        return None, [labels]
    if not isinstance(labels, Mapping):
        return None, labels
    names = {description: name for name, description in labels.items()}
    if len(names) < len(labels):
        raise DataError("`labels` must describe each name differently, but two descriptions are the same.")
    return names, list(names)


def _dictionaries(entities: Sequence[Any], names: Mapping[str, str] | None) -> Entities:
    found = [entity.to_dict() for entity in entities]
    return found if names is None else [entity | {"label": names[entity["label"]]} for entity in found]


def _examples(data: Sequence[Mapping[str, Any]]) -> list[Example]:
    """Gliner's dictionaries as examples."""
    examples = []
    for index, item in enumerate(data):
        try:
            words = list(item["tokenized_text"])
            spans = [Span(first, last + 1, label) for first, last, label in item.get("ner") or ()]
            asked = item.get("ner_labels")
            negatives = tuple(item.get("ner_negatives") or ())
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataError(
                f"Example {index} must have `tokenized_text` (words) and `ner` ([first, last, label] of each), "
                f"but is {str(item)[:80]}."
            ) from None
        wrong = [span for span in spans if not 0 <= span.start < span.end <= len(words)]
        if wrong:
            raise DataError(
                f"Example {index}: a span must lie within its {len(words)} words, but is "
                f"[{wrong[0].start}, {wrong[0].end - 1}]."
            )
        labels = None if asked is None else tuple(dict.fromkeys((*asked, *(span.label for span in spans))))
        examples.append(Example.from_words(words, spans, labels=labels, negatives=negatives, origin=f"example {index}"))
    return examples
