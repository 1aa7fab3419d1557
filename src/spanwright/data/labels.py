"""Which labels a training row is asked. The one owner of that randomness."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from spanwright.config import LabelOptions
from spanwright.entities import Example


class LabelSampler:
    """The labels and relations to ask each row, a function of (seed, epoch, index) and of nothing else.

    A row that says its labels is asked those. Any other is asked all labels of its own gold spans and the negatives
    that it states, then labels of the data set's inventory that it does not carry, up to `max_labels`: with an
    inventory that fits, every row is asked the whole of it, and a row without entities teaches "nothing here". The
    order is shuffled, so that no label is learnt by its place. Relations are asked likewise, of rows where somebody
    annotated them.
    """

    def __init__(
        self, inventory: Sequence[str], options: LabelOptions, *, seed: int, relations: Sequence[str] = ()
    ) -> None:
        """`relations`: the data set's inventory of relations."""
        self._inventory = tuple(dict.fromkeys(inventory))
        self._relations = tuple(dict.fromkeys(relations))
        self._options = options
        self._seed = seed

    def description(self) -> dict[str, int | str]:
        """What the draw depends on beside a row and its place."""
        names = "\0".join([*self._inventory, *(f"\1{relation}" for relation in self._relations)])
        digest = hashlib.blake2b(names.encode("utf-8", "surrogatepass"), digest_size=8)
        return {"seed": self._seed, "inventory": len(self._inventory), "digest": digest.hexdigest()}

    def labels_for(self, example: Example, *, epoch: int, index: int) -> tuple[str, ...]:
        """The labels that row `index` is asked in `epoch`, each once."""
        rng = random.Random(f"{self._seed}/{epoch}/{index}")  # a string seeds by its SHA-512, on every platform alike
        positives = dict.fromkeys(span.label for span in example.spans)
        asked = _Asked(list(positives), example.labels, example.negatives)
        return asked.drawn(rng, self._inventory, self._options.max_labels, self._options.num_negatives)

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
        others = [label for label in inventory if label not in excluded]
        return stated + rng.sample(others, min(room - len(stated), len(others)))


def label_inventory(examples: Sequence[Example]) -> list[str]:
    """All labels that the examples speak of, sorted."""
    return sorted(
        {span.label for example in examples for span in example.spans}
        | {label for example in examples for label in (*(example.labels or ()), *example.negatives)}
    )


def relation_inventory(examples: Sequence[Example]) -> list[str]:
    """All relations that the examples speak of, sorted."""
    golds = [example.gold_relations for example in examples if example.gold_relations is not None]
    return sorted(
        {relation.label for gold in golds for relation in gold.relations}
        | {label for gold in golds for label in (*(gold.labels or ()), *gold.negatives)}
    )
