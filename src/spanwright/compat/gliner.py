"""gliner's calls: change the import line, keep the script.

    from spanwright.compat.gliner import GLiNER   # was: from gliner import GLiNER

The arguments and the dictionaries are gliner's; the modes, the windows over long texts and the errors are Spanwright's.
What cannot be honoured is refused in one sentence, never swallowed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spanwright.arguments import checked_labels
from spanwright.compat.asking import (
    Entities,
    LabelNames,
    asked_of,
    decode_options,
    dictionaries,
    refuse,
    relation_dictionaries,
    relations_of,
    texts_of,
    told,
    vectors_of,
)
from spanwright.compat.base import Base
from spanwright.errors import ConfigError
from spanwright.evaluation.metrics import Counts
from spanwright.extractor import Extractor, LabelVectors


class GLiNER(Base):
    """A model behind gliner's calls. `extractor` is what answers; `model` the network.

    A relation model comes as RelationGLiNER, whose calls take relations too, in gliner's order.
    """

    def __new__(cls, extractor: Extractor) -> GLiNER:
        """Of the kind that the extractor is."""
        kind = RelationGLiNER if extractor.model.config.finds_relations else cls
        return super().__new__(kind)

    def predict_entities(
        self,
        text: str,
        labels: LabelNames,
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        return_class_probs: bool = False,
        **others: Any,
    ) -> Entities:
        """The entities of one text: dictionaries of start, end, text, label, score. Others: as `inference`."""
        asked: dict[str, Any] = {"flat_ner": flat_ner, "threshold": threshold, "multi_label": multi_label}
        found: list[Entities] = self.inference([text], labels, **asked, return_class_probs=return_class_probs, **others)
        return found[0]

    def inference(
        self,
        texts: str | Sequence[str],
        labels: LabelNames | Sequence[Sequence[str]] | Sequence[Mapping[str, str]],
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        batch_size: int = 8,
        packing_config: None = None,
        input_spans: None = None,
        return_class_probs: bool = False,
        *,
        return_vectors: bool = False,
        return_label_vectors: bool = False,
        relations: None = None,
        adjacency_threshold: float | None = None,
        relation_threshold: float | None = None,
        return_relations: bool = False,
    ) -> Any:
        """The entities of each text.

        `labels` are names, one name, or a mapping of names to descriptions, which are asked for; or one list or mapping
        per text. `batch_size` is not needed: batches are made by length and memory. `relations` and their thresholds
        have no effect unless relations are asked for.

        Raises:
            ConfigError: an argument asks for what is not here.
            DataError: a label is empty or not a string, or texts are none.

        """
        refuse(
            packing_config=packing_config,
            input_spans=input_spans,
            return_class_probs=return_class_probs,
            return_vectors=return_vectors,
            return_label_vectors=return_label_vectors,
        )
        if relations:
            raise ConfigError("`relations` must be left out, but are asked of a model that knows none.")
        readable = texts_of(texts)
        asked = asked_of(labels, len(readable))
        found = self.extractor.extract_many(readable, asked.labels, decode_options(flat_ner, threshold, multi_label))
        return [dictionaries(entities, names) for entities, names in zip(found, asked.names, strict=True)]

    def predict_relations(self, *_: Any, **__: Any) -> tuple[Entities, Entities]:
        """Of a relation model only. Raises ConfigError."""
        raise ConfigError("`predict_relations` must be asked of a relation model, but this model knows none.")

    def batch_predict_entities(
        self,
        texts: Sequence[str],
        labels: LabelNames,
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        **others: Any,
    ) -> Any:
        """As `inference`, which gliner recommends instead."""
        warnings.warn("`batch_predict_entities` is deprecated in gliner: use `inference`.", FutureWarning, stacklevel=2)
        asked: dict[str, Any] = {"flat_ner": flat_ner, "threshold": threshold, "multi_label": multi_label}
        return self.inference(texts, labels, **asked, **others)

    def encode_labels(self, labels: Sequence[str], batch_size: int = 8) -> torch.Tensor:
        """Label vectors (C, D) of a bi-encoder. `batch_size` is not needed.

        Raises:
            ConfigError: the model is no bi-encoder.

        """
        return self.extractor.encode_labels(labels).vectors

    def batch_predict_with_embeds(
        self,
        texts: str | Sequence[str],
        labels_embeddings: Any,
        labels: Sequence[str],
        flat_ner: bool = True,
        threshold: float = 0.5,
        multi_label: bool = False,
        batch_size: int = 8,
        packing_config: None = None,
        input_spans: None = None,
        return_class_probs: bool = False,
        *,
        return_vectors: bool = False,
        return_label_vectors: bool = False,
    ) -> list[Entities]:
        """The entities of each text, for labels whose vectors (C, D) `encode_labels` gave; numpy's do too.

        Raises:
            DataError: there are not as many vectors as labels, or they are not of the model's size.

        """
        refuse(
            packing_config=packing_config,
            input_spans=input_spans,
            return_class_probs=return_class_probs,
            return_vectors=return_vectors,
            return_label_vectors=return_label_vectors,
        )
        names = checked_labels(labels)
        now = self.extractor.encode_labels(names[:1])  # says of which weights vectors are
        given = vectors_of(labels_embeddings, names, self.config.hidden_size)
        vectors = LabelVectors(names, given, now.weights)
        found = self.extractor.extract_many(texts_of(texts), vectors, decode_options(flat_ner, threshold, multi_label))
        return [dictionaries(entities, None) for entities in found]

    def predict_with_embeds(
        self, text: str, labels_embeddings: Any, labels: Sequence[str], *options: Any, **named: Any
    ) -> Entities:
        """As `batch_predict_with_embeds`, for one text."""
        return self.batch_predict_with_embeds([text], labels_embeddings, labels, *options, **named)[0]

    def evaluate(
        self,
        test_data: Sequence[Mapping[str, Any]],
        flat_ner: bool = False,
        multi_label: bool = False,
        threshold: float = 0.5,
        batch_size: int = 12,
        entity_types: Sequence[str] | None = None,
    ) -> Any:
        """Precision, recall and F1 (micro, exact match) in a line, and F1.

        Without `entity_types`, every example is asked all labels of the data, or those that it lists; gliner asks
        labels drawn at random, which is easier and another score each time.

        Raises:
            DataError: an example cannot be read.

        """
        options = decode_options(flat_ner, threshold, multi_label)
        return told(self._report(test_data, entity_types, None, options).micro)


class RelationGLiNER(GLiNER):
    """A relation model. As in gliner, its calls take relations before the other options."""

    def predict_entities(  # type: ignore[override]  # gliner's order of arguments
        self,
        text: str,
        labels: LabelNames,
        relations: str | Sequence[str] | None = None,
        flat_ner: bool = True,
        threshold: float = 0.5,
        adjacency_threshold: float | None = None,
        multi_label: bool = False,
        return_class_probs: bool = False,
        **others: Any,
    ) -> Entities:
        """The entities of one text. `relations` are read beside the labels, which changes scores a little."""
        found: list[Entities] = self.inference(
            [text],
            labels,
            relations,
            flat_ner,
            threshold,
            adjacency_threshold,
            multi_label=multi_label,
            return_class_probs=return_class_probs,
            **others | {"return_relations": False},
        )
        return found[0]

    def inference(  # type: ignore[override]  # gliner's order of arguments
        self,
        texts: str | Sequence[str],
        labels: LabelNames | Sequence[Sequence[str]] | Sequence[Mapping[str, str]],
        relations: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        flat_ner: bool = True,
        threshold: float = 0.5,
        adjacency_threshold: float | None = None,
        relation_threshold: float | None = None,
        multi_label: bool = False,
        batch_size: int = 8,
        packing_config: None = None,
        input_spans: None = None,
        return_relations: bool = True,
        return_class_probs: bool = False,
        *,
        return_vectors: bool = False,
        return_label_vectors: bool = False,
    ) -> Any:
        """A pair: entities and relations of each text; without `return_relations`, the entities alone.

        Arguments as those of GLiNER.inference; `relations` are names, one name, or one list per text.

        Raises:
            ConfigError: an argument asks for what is not here.
            DataError: a label is empty or not a string, or texts are none.

        """
        refuse(
            packing_config=packing_config,
            input_spans=input_spans,
            return_class_probs=return_class_probs,
            return_vectors=return_vectors,
            return_label_vectors=return_label_vectors,
        )
        options = decode_options(flat_ner, threshold, multi_label, relation_threshold, adjacency_threshold)
        readable = texts_of(texts)
        asked = asked_of(labels, len(readable))
        found = self.extractor.extract_relations_many(readable, asked.labels, relations_of(relations), options)
        rows = list(zip(found, asked.names, strict=True))
        entities = [dictionaries(each.entities, names) for each, names in rows]
        if not return_relations:
            return entities
        return entities, [relation_dictionaries(each, names) for each, names in rows]

    def predict_relations(
        self, text: str, labels: LabelNames, relations: str | Sequence[str], *options: Any, **named: Any
    ) -> tuple[Entities, Entities]:
        """The entities of one text, and the relations between them. Options as those of `inference`."""
        found = self.inference([text], labels, relations, *options, **named | {"return_relations": True})
        return found[0][0], found[1][0]

    def evaluate(  # type: ignore[override]  # gliner's order of arguments
        self,
        test_data: Sequence[Mapping[str, Any]],
        flat_ner: bool = False,
        multi_label: bool = False,
        threshold: float = 0.5,
        adjacency_threshold: float | None = None,
        relation_threshold: float | None = None,
        batch_size: int = 12,
        entity_types: Sequence[str] | None = None,
        relation_types: Sequence[str] | None = None,
    ) -> Any:
        """Two pairs, of entities and of relations: precision, recall and F1 in a line, and F1.

        As GLiNER.evaluate; gliner also drops some of the gold when it draws the relations to ask.

        Raises:
            DataError: an example cannot be read.

        """
        options = decode_options(flat_ner, threshold, multi_label, relation_threshold, adjacency_threshold)
        report = self._report(test_data, entity_types, relation_types, options)
        return told(report.micro), told(Counts() if report.relations is None else report.relations.micro)
