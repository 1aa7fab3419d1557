"""gliner's calls: change the import line, keep the script.

    from spanwright.compat.gliner import GLiNER   # was: from gliner import GLiNER

The arguments and the dictionaries are gliner's; the modes, the windows over long texts and the errors are Spanwright's.
What cannot be honoured is refused in one sentence, never swallowed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spanwright.arguments import checked_labels
from spanwright.compat.training import examples_of, training_config
from spanwright.config import DecodeOptions, ModelConfig
from spanwright.entities import Entity, Extraction
from spanwright.errors import ConfigError, DataError, nearest
from spanwright.evaluation import evaluate
from spanwright.evaluation.metrics import Counts
from spanwright.extractor import Extractor, LabelVectors
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
    "compile_torch_model",
}
_HALVES = {True: "float16", "fp16": "float16", "bf16": "bfloat16"}  # what gliner calls quantisation


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
        quantize: str | bool | None = None,
        **others: Any,
    ) -> GLiNER:
        """The model in a folder, or of that name on the hub. `quantize`: half-precision weights ("fp16", "bf16").

        Raises:
            CheckpointError: there is no such model, or it is damaged or of another kind.
            ConfigError: an argument is unknown or cannot be honoured.

        """
        for name in others.keys() - _NEEDLESS:
            raise ConfigError(f"`{name}` is not an argument of `from_pretrained` here. {nearest(name, _NEEDLESS)}")
        if quantize:
            if quantize not in _HALVES:
                raise ConfigError(f'`quantize` must be "fp16" or "bf16", but is {quantize!r}. Leave it out.')
            dtype = dtype or _HALVES[quantize]
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
        return self._entities([text], labels, _decode(flat_ner, threshold, multi_label))[0]

    def inference(
        self,
        texts: str | Sequence[str],
        labels: LabelNames | Sequence[Sequence[str]],
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        batch_size: int = 8,
        *,
        relations: str | Sequence[str] | Sequence[Sequence[str]] = (),
        adjacency_threshold: float | None = None,
        relation_threshold: float | None = None,
        return_relations: bool = True,
    ) -> Any:
        """The entities of each text; of a relation model, as in gliner, a pair: entities and relations of each text.

        `labels` are names, one name, one list per text, or a mapping of names to descriptions, which are asked for;
        `relations` the first three of these. `batch_size` is not needed: batches are made by length and memory.

        Raises:
            ConfigError: relations are asked of a model that knows none.
            DataError: a label is empty or not a string.

        """
        options = _decode(flat_ner, threshold, multi_label, relation_threshold, adjacency_threshold)
        if not self.config.finds_relations or not return_relations:
            if relations and not self.config.finds_relations:
                raise ConfigError("`relations` must be left out, but are asked of a model that knows none.")
            return self._entities(texts, labels, options)
        names, asked = _named(labels)
        related = [relations] if isinstance(relations, str) else relations
        found = self.extractor.extract_relations_many(_readable(texts), asked, related, options)
        entities = [_dictionaries(each.entities, names) for each in found]
        return entities, [_relation_dictionaries(each, names) for each in found]

    def predict_relations(
        self, text: str, labels: LabelNames, relations: str | Sequence[str], **options: Any
    ) -> tuple[Entities, Entities]:
        """The entities of one text, and the relations between them. Options as those of `inference`.

        Raises:
            ConfigError: the model knows no relations.

        """
        if not self.config.finds_relations:
            raise ConfigError("`predict_relations` must be asked of a relation model, but this model knows none.")
        entities, found = self.inference([text], labels, relations=relations, **options)
        return entities[0], found[0]

    def batch_predict_entities(self, texts: Sequence[str], labels: LabelNames, **options: Any) -> list[Entities]:
        """As `inference`, which gliner recommends instead, without relations."""
        warnings.warn("`batch_predict_entities` is deprecated in gliner: use `inference`.", FutureWarning, stacklevel=2)
        found: list[Entities] = self.inference(texts, labels, **options, return_relations=False)
        return found

    def _entities(self, texts: str | Sequence[str], labels: Any, options: DecodeOptions) -> list[Entities]:
        names, asked = _named(labels)
        return [_dictionaries(found, names) for found in self.extractor.extract_many(_readable(texts), asked, options)]

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
        relation_types: Sequence[str] | None = None,
        adjacency_threshold: float | None = None,
        relation_threshold: float | None = None,
    ) -> Any:
        """Precision, recall and F1 (micro, exact match) in a line, and F1; of a relation model, two such pairs.

        Without `entity_types` (`relation_types`), every example is asked all labels of the data; gliner asks labels
        drawn at random, which is easier and another score each time, and drops some of the gold of relation models.

        Raises:
            DataError: an example cannot be read.

        """
        options = _decode(flat_ner, threshold, multi_label, relation_threshold, adjacency_threshold)
        report = evaluate(self.extractor, examples_of(test_data), entity_types, options, relations=relation_types)
        if not self.config.finds_relations:
            return _told(report.micro)
        return _told(report.micro), _told(Counts() if report.relations is None else report.relations.micro)

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
    ) -> Trainer:
        """Fine-tune in place, with gliner's training arguments, its defaults and its objective (the sum).

        The best model by F1 on `eval_dataset`, or the last without, is in memory and in `output_dir` afterwards.

        Raises:
            ConfigError: an argument is unknown here; Spanwright's own names are in docs/guide/train.md.
            DataError: an example cannot be read.
            TrainingError: the run cannot go on.

        """
        config = training_config(arguments, freeze_components, bf16=bf16, fp16=fp16, model=self.config)
        dev = None if eval_dataset is None else examples_of(eval_dataset)
        train(self.extractor, examples_of(train_dataset), dev, output=output_dir, config=config)
        return Trainer(self, Path(output_dir))

    def save_pretrained(self, save_directory: str | Path, safe_serialization: bool = True) -> None:
        """Write the model in the published format, always as safetensors.

        Raises:
            CheckpointError: the folder cannot be written; what it held before is untouched.

        """
        self.extractor.save(save_directory)


@dataclass(frozen=True, slots=True)
class Trainer:
    """What is left of a run: the `model`, and where its package is."""

    model: GLiNER
    output_dir: Path

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Write the model; without a folder, it is in `output_dir` already."""
        if output_dir is not None and Path(output_dir) != self.output_dir:
            self.model.save_pretrained(output_dir)


def _decode(
    flat_ner: bool,
    threshold: float,
    multi_label: bool,
    relation_threshold: float | None = None,
    adjacency_threshold: float | None = None,
) -> DecodeOptions:
    return DecodeOptions(
        threshold=threshold,
        overlap="flat" if flat_ner else "nested",
        multi_label=multi_label,
        relation_threshold=relation_threshold,
        adjacency_threshold=adjacency_threshold,
    )


def _readable(texts: str | Sequence[Any]) -> list[str]:
    """Texts as a list; what is none of them (None) is empty and has no entities, as in gliner."""
    return [text if isinstance(text, str) else "" for text in ([texts] if isinstance(texts, str) else texts)]


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


def _dictionaries(entities: Sequence[Entity], names: Mapping[str, str] | None) -> Entities:
    found = [entity.to_dict() for entity in entities]
    return found if names is None else [entity | {"label": names[entity["label"]]} for entity in found]


def _relation_dictionaries(found: Extraction, names: Mapping[str, str] | None) -> Entities:
    """As gliner lays them out; `entity_idx` is the place among the entities."""
    place = {id(entity): index for index, entity in enumerate(found.entities)}

    def end(entity: Entity) -> dict[str, Any]:
        kind = entity.label if names is None else names[entity.label]
        return {
            "start": entity.start,
            "end": entity.end,
            "text": entity.text,
            "type": kind,
            "entity_idx": place[id(entity)],
        }

    return [{"head": end(r.head), "tail": end(r.tail), "relation": r.label, "score": r.score} for r in found.relations]


def _told(micro: Counts) -> tuple[str, float]:
    return f"P: {micro.precision:.2%}\tR: {micro.recall:.2%}\tF1: {micro.f1:.2%}\n", micro.f1
