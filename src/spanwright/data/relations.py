"""The relations of a record: GLiNER's `relations`, `rel_labels` and `rel_negatives`, or objects with head and tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spanwright.data.notes import Notes, brief, is_index, label_list
from spanwright.entities import RelationGold, Span, SpanRelation

_LABEL_KEYS = ("label", "type", "relation")


def read_relations(note: Notes, value: dict[str, Any], spans: Sequence[Span | None]) -> RelationGold | None:
    """The relations of a record between its `spans`, in which None stands for one that was left out.

    None comes back where the record says nothing of relations: nobody annotated them.
    """
    given = value.get("relations")
    if given is None:
        return None
    if not isinstance(given, list):
        note("wrong-type", "relations", f"`relations` must be a list of [head, tail, label], but is {brief(given)}.")
        return None
    found = [
        relation
        for index, item in enumerate(given)
        if (relation := _relation(note, f"relations[{index}]", item, spans)) is not None
    ]
    unique = tuple(dict.fromkeys(found))
    if len(unique) < len(found):
        count = len(found) - len(unique)
        message = f"a relation must stand once, but {count} stand{'s' * (count == 1)} again."
        note("repeated-relation", "relations", message, "warning")
    labels = label_list(note, value, "rel_labels")
    negatives = label_list(note, value, "rel_negatives") or ()
    own = {relation.label for relation in unique}
    if labels is not None and (lacking := sorted(own - set(labels))):
        message = f"`rel_labels` must list the row's own relations, but lacks {', '.join(lacking)}; they are asked too."
        note("label-not-listed", "rel_labels", message, "warning")
    if clash := sorted(own & set(negatives)):
        message = f"`rel_negatives` must be absent from the row, but {', '.join(clash)} is in it."
        note("false-negative", "rel_negatives", message)
        negatives = tuple(label for label in negatives if label not in own)
    return RelationGold(unique, labels, negatives)


def _relation(note: Notes, where: str, item: Any, spans: Sequence[Span | None]) -> SpanRelation | None:
    if isinstance(item, dict):
        item = [item.get("head"), item.get("tail"), next((item[key] for key in _LABEL_KEYS if key in item), None)]
    if not isinstance(item, (list, tuple)) or len(item) != 3:
        return note.relation("wrong-type", where, f"`{where}` must be [head, tail, label], but is {brief(item)}.")
    head, tail, label = item
    if not is_index(head) or not is_index(tail):
        message = f"`{where}` must have the places of two entities, but has {brief([head, tail])}."
        return note.relation("wrong-type", where, message)
    if not (0 <= head < len(spans) and 0 <= tail < len(spans)):
        message = f"`{where}` must relate two of the {len(spans)} entities, counted from 0, but has [{head}, {tail}]."
        return note.relation("out-of-range", where, message)
    if not isinstance(label, str) or not label.strip():
        message = f"`{where}` must have a label with something in it, but has {brief(label)}."
        return note.relation("empty-label", where, message)
    one, other = spans[head], spans[tail]
    if one is None or other is None:
        lost = head if one is None else tail
        message = f"`{where}` must relate entities that can be read, but entity {lost} cannot."
        return note.relation("relation-of-nothing", where, message)
    if (one.start, one.end) == (other.start, other.end):
        message = f"`{where}` must relate two entities, but has the words [{one.start}, {one.end}) twice."
        return note.relation("self-relation", where, message)
    return SpanRelation(one, other, label)
