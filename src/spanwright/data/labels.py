"""Which labels a training row is asked. The one owner of that randomness."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spanwright.entities import Example
from spanwright.train_config import LabelOptions


class LabelSampler:
    """The labels and relations to ask each row, a function of (seed, epoch, index) and of nothing else.

    A row that says its labels is asked those. Any other is asked all labels of its own gold spans and the negatives
    that it states, then labels of its source's inventory that it does not carry, up to `max_labels`: with an
    inventory that fits, every row is asked the whole of it, and a row without entities teaches "nothing here". The
    order is shuffled, so that no label is learnt by its place. Relations are asked likewise, of rows where somebody
    annotated them.
    """

    def __init__(
        self,
        inventory: Sequence[str] | Mapping[str, Sequence[str]],
        options: LabelOptions,
        *,
        seed: int,
        relations: Sequence[str] = (),
    ) -> None:
        """`inventory`: of all rows, or of each source; `relations`: of all rows."""
        by_source = inventory if isinstance(inventory, Mapping) else {"": inventory}
        self._by_source = {source: tuple(dict.fromkeys(labels)) for source, labels in by_source.items()}
        self._all = tuple(dict.fromkeys(label for labels in self._by_source.values() for label in labels))
        self._relations = tuple(dict.fromkeys(relations))
        self._options = options
        self._seed = seed

    def description(self) -> dict[str, int | str]:
        """What the draw depends on beside a row and its place."""
        names = [
            label
            for source, labels in self._by_source.items()
            for label in (*([f"\2{source}"] * bool(source)), *labels)
        ]
        names += (f"\1{relation}" for relation in self._relations)
        digest = hashlib.blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=8)
        return {"seed": self._seed, "inventory": len(self._all), "digest": digest.hexdigest()}

    def labels_for(self, example: Example, *, epoch: int, index: int) -> tuple[str, ...]:
        """The labels that row `index` is asked in `epoch`, each once."""
        rng = random.Random(f"{self._seed}/{epoch}/{index}")  # a string seeds by its SHA-512, on every platform alike
        positives = dict.fromkeys(span.label for span in example.spans)
        asked = _Asked(list(positives), example.labels, example.negatives)
        inventory: Sequence[str] = self._by_source.get(example.source, self._all)
        if example.source in self._options.stated_only and example.negatives:
            inventory = ()
        return asked.drawn(rng, inventory, self._options.max_labels, self._number(rng))

    def _number(self, rng: random.Random) -> int | None:
        """The most negatives of a row."""
        most = self._options.num_negatives
        return rng.randint(1, self._options.max_labels if most is None else most) if self._options.varied else most

    def relations_for(self, example: Example, *, epoch: int, index: int) -> tuple[str, ...]:
        """The relations that row `index` is asked in `epoch`, each once; none where nobody annotated them."""
        gold = example.gold_relations
        if gold is None:
            return ()
        rng = random.Random(f"{self._seed}/{epoch}/{index}/relations")
        positives = dict.fromkeys(relation.label for relation in gold.relations)
        asked = _Asked(list(positives), gold.labels, gold.negatives)
        return asked.drawn(rng, self._relations, self._options.max_relations, self._options.num_negatives)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a row says of the labels that it wants to be asked."""

    positives: list[str]
    listed: tuple[str, ...] | None
    negatives: tuple[str, ...]

    def drawn(
        self, rng: random.Random, inventory: Sequence[str], most: int, num_negatives: int | None
    ) -> tuple[str, ...]:
        if self.listed is not None:
            asked = list(dict.fromkeys((*self.listed, *self.positives)))
        else:
            asked = [*self.positives, *self._negatives(rng, inventory, most, num_negatives)]
        rng.shuffle(asked)
        return tuple(asked)

    def _negatives(
        self, rng: random.Random, inventory: Sequence[str], most: int, num_negatives: int | None
    ) -> list[str]:
        taken = set(self.positives)
        stated = [label for label in dict.fromkeys(self.negatives) if label not in taken]
        room = max(most - len(taken), 0)
        if num_negatives is not None:
            room = min(room, num_negatives)
        if not taken:
            room = max(room, 1)  # a question without labels teaches nothing
        if len(stated) >= room:
            return rng.sample(stated, room)
        excluded = taken | set(stated)
        # so many that enough are left without the excluded ones: an inventory of thousands is never gone through
        drawn = rng.sample(inventory, min(room - len(stated) + len(excluded), len(inventory)))
        return stated + [label for label in drawn if label not in excluded][: room - len(stated)]


def label_inventory(examples: Sequence[Example]) -> list[str]:
    """All labels that the examples speak of, sorted."""
    return sorted(
        {span.label for example in examples for span in example.spans}
        | {label for example in examples for label in (*(example.labels or ()), *example.negatives)}
    )


def inventories(examples: Sequence[Example]) -> dict[str, list[str]]:
    """All labels that the examples of each source speak of, sorted."""
    by_source: dict[str, set[str]] = {}
    for example in examples:
        known = by_source.setdefault(example.source, set())
        known.update(span.label for span in example.spans)
        known.update(example.labels or (), example.negatives)
    return {source: sorted(labels) for source, labels in sorted(by_source.items())}


def relation_inventory(examples: Sequence[Example]) -> list[str]:
    """All relations that the examples speak of, sorted."""
    golds = [example.gold_relations for example in examples if example.gold_relations is not None]
    return sorted(
        {relation.label for gold in golds for relation in gold.relations}
        | {label for gold in golds for label in (*(gold.labels or ()), *gold.negatives)}
    )
