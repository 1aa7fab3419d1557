"""Which labels a training row is asked. The one owner of that randomness."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from spanwright.config import LabelOptions
from spanwright.entities import Example


class LabelSampler:
    """The labels to ask each row, a function of (seed, epoch, index) and of nothing else.

    A row that says its labels is asked those. Any other is asked all labels of its own gold spans and the negatives
    that it states, then labels of the data set's inventory that it does not carry, up to `max_labels`: with an
    inventory that fits, every row is asked the whole of it, and a row without entities teaches "nothing here". The
    order is shuffled, so that no label is learnt by its place.
    """

    def __init__(self, inventory: Sequence[str], options: LabelOptions, *, seed: int) -> None:
        self._inventory = tuple(dict.fromkeys(inventory))
        self._options = options
        self._seed = seed

    def description(self) -> dict[str, int | str]:
        """What the draw depends on beside a row and its place."""
        digest = hashlib.blake2b("\0".join(self._inventory).encode("utf-8", "surrogatepass"), digest_size=8)
        return {"seed": self._seed, "inventory": len(self._inventory), "digest": digest.hexdigest()}

    def labels_for(self, example: Example, *, epoch: int, index: int) -> tuple[str, ...]:
        """The labels that row `index` is asked in `epoch`, each once."""
        rng = random.Random(f"{self._seed}/{epoch}/{index}")  # a string seeds by its SHA-512, on every platform alike
        positives = dict.fromkeys(span.label for span in example.spans)
        if example.labels is not None:
            asked = list(dict.fromkeys((*example.labels, *positives)))
        else:
            stated = [label for label in dict.fromkeys(example.negatives) if label not in positives]
            asked = [*positives, *self._with_negatives(rng, set(positives), stated)]
        rng.shuffle(asked)
        return tuple(asked)

    def _with_negatives(self, rng: random.Random, taken: set[str], stated: list[str]) -> list[str]:
        room = max(self._options.max_labels - len(taken), 0)
        if self._options.num_negatives is not None:
            room = min(room, self._options.num_negatives)
        if not taken:
            room = max(room, 1)  # a question without labels teaches nothing
        if len(stated) >= room:
            return rng.sample(stated, room)
        excluded = taken | set(stated)
        others = [label for label in self._inventory if label not in excluded]
        return stated + rng.sample(others, min(room - len(stated), len(others)))


def label_inventory(examples: Sequence[Example]) -> list[str]:
    """All labels that the examples speak of, sorted."""
    return sorted(
        {span.label for example in examples for span in example.spans}
        | {label for example in examples for label in (*(example.labels or ()), *example.negatives)}
    )
