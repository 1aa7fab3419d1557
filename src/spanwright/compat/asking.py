"""gliner's questions and answers: labels with descriptions, thresholds, dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spanwright.config import DecodeOptions
from spanwright.entities import Entity, Extraction
from spanwright.errors import ConfigError, DataError
from spanwright.evaluation.metrics import Counts

Entities = list[dict[str, Any]]
LabelNames = str | Sequence[str] | Mapping[str, str]
Names = Mapping[str, str]  # description -> name

# what asks for nothing, and what to do instead of any other value
_REFUSED = {
    "packing_config": (None, "Leave it out: texts are batched by length already."),
    "input_spans": (None, "Leave it out, and look up the entities that you asked for."),
    "return_class_probs": (
        False,
        "Leave it out; `multi_label=True` with a low `threshold` gives the score of each label.",
    ),
    "return_vectors": (False, "Leave it out: answers have no vectors."),
    "return_label_vectors": (False, "Leave it out; a bi-encoder's `encode_labels` gives those of labels."),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Labels as the network reads them, and for each text the name of each description, where there are any."""

    labels: Any
    names: list[Names | None]


def asked_of(labels: Any, num_texts: int) -> Asked:
    """Labels as gliner takes them: a name, names, names with descriptions; or one of the last two for each text.

    Raises:
        DataError: they are none of this, or two names have the same description.

    """
    if isinstance(labels, Mapping):
        names = _names(labels)
        return Asked(list(names), [names] * num_texts)
    listed = _listed("labels", labels)
    if not any(isinstance(own, Mapping) for own in listed):
        return Asked(listed, [None] * num_texts)
    per_text = [_names(own) if isinstance(own, Mapping) else None for own in listed]
    asked = [own if names is None else list(names) for own, names in zip(listed, per_text, strict=True)]
    return Asked(asked, per_text)


def relations_of(relations: Any) -> list[Any]:
    """Relations as gliner takes them: none, a name, names, or names for each text."""
    return [] if relations is None else _listed("relations", relations)


def _listed(name: str, given: Any) -> list[Any]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable):
        raise DataError(f"`{name}` must be strings, but is {given!r}.")
    return list(given)


def _names(labels: Mapping[str, Any]) -> Names:
    for name, description in labels.items():
        if not isinstance(description, str) or not description.strip():
            raise DataError(f"`labels[{name!r}]` must be a string with something in it, but is {description!r}.")
    names = {description: name for name, description in labels.items()}
    if len(names) < len(labels):
        raise DataError("`labels` must describe each name differently, but two descriptions are the same.")
    return names


def texts_of(texts: Any) -> list[str]:
    """Texts as a list; what is none among them (None) is empty and has no entities, as in gliner.

    Raises:
        DataError: they are not texts at all.

    """
    return [text if isinstance(text, str) else "" for text in _listed("texts", texts)]


def refuse(**arguments: Any) -> None:
    """Raise the ConfigError of the first of gliner's arguments that asks for what is not here."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            nothing, remedy = _REFUSED[name]
            raise ConfigError(f"`{name}` must be {nothing}, but is given, which is not offered here. {remedy}")


def decode_options(
    flat_ner: bool,
    threshold: Any,
    multi_label: bool,
    relation_threshold: Any = None,
    adjacency_threshold: Any = None,
) -> DecodeOptions:
    """Say in gliner's way which spans become entities. Thresholds may be numbers of numpy."""
    return DecodeOptions(
        threshold=_number(threshold),
        overlap="flat" if flat_ner else "nested",
        multi_label=multi_label,
        relation_threshold=_number(relation_threshold),
        adjacency_threshold=_number(adjacency_threshold),
    )


def _number(value: Any) -> Any:
    """A number of numpy or torch as Python's; a mapping with such numbers too."""
    if isinstance(value, Mapping):
        return {label: _number(each) for label, each in value.items()}
    return value.item() if getattr(value, "ndim", None) == 0 else value


def vectors_of(given: Any, names: Sequence[str], size: int) -> torch.Tensor:
    """Vectors (C, D) of labels, from torch or numpy.

    Raises:
        DataError: there are not as many as labels, or they are not of `size`.

    """
    try:
        vectors = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"`labels_embeddings` must be numbers (labels, {size}), but is {type(given).__name__}."
        ) from None
    if vectors.dim() != 2 or vectors.shape[1] != size:
        raise DataError(
            f"`labels_embeddings` must be of shape (labels, {size}), but is of {tuple(vectors.shape)}. "
            "Take what this model's `encode_labels` gives."
        )
    if len(names) != len(vectors):
        raise DataError(f"`labels` must be {len(vectors)} as the vectors are, but are {len(names)}.")
    return vectors


def dictionaries(entities: Sequence[Entity], names: Names | None) -> Entities:
    """Entities as gliner gives them, under the names that were asked by their descriptions."""
    found = [entity.to_dict() for entity in entities]
    return found if names is None else [entity | {"label": names[entity["label"]]} for entity in found]


def relation_dictionaries(found: Extraction, names: Names | None) -> Entities:
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


def told(micro: Counts) -> tuple[str, float]:
    """Precision, recall and F1 in gliner's line, and F1."""
    return f"P: {micro.precision:.2%}\tR: {micro.recall:.2%}\tF1: {micro.f1:.2%}\n", micro.f1
