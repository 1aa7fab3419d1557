"""How often the rows of each source are seen: a mixture of data sets of unlike size and worth."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable

from spanwright.errors import ConfigError, nearest
from spanwright.train_config import MixtureOptions


class Mixture:
    """Which rows an epoch has, where sources are drawn more or less often than they are large.

    Each source is an endless stream of its rows: all of them in an order drawn anew, then all again. An epoch takes the
    next part of each, as long as the options say, so that no row comes a second time before every other has come once.
    """

    def __init__(self, sources: Iterable[str], options: MixtureOptions) -> None:
        """`sources`: of each row.

        Raises:
            ConfigError: a share is given to a source that has no rows, or nothing is left for the others.

        """
        self._rows: dict[str, array[int]] = {}
        for index, source in enumerate(sources):
            self._rows.setdefault(source, array("I")).append(index)
        for source in options.shares:
            if source not in self._rows:
                known = nearest(source, self._rows)
                raise ConfigError(f"`mixture.shares` must name sources of the data, but names {source!r}. {known}")
        self.quotas = self._quotas(options)

    def _quotas(self, options: MixtureOptions) -> dict[str, int]:
        """Rows of each source in an epoch; their sum is the number of rows, but for rounding."""
        total = sum(map(len, self._rows.values()))
        others = {
            source: len(rows) ** options.power for source, rows in self._rows.items() if source not in options.shares
        }
        left = 1 - sum(options.shares.values())
        shares = dict(options.shares)
        if others:
            weight = sum(others.values())
            shares |= {source: left * size / weight for source, size in others.items()}
        quotas = {source: round(share * total) for source, share in shares.items()}
        if not sum(quotas.values()):
            raise ConfigError("`mixture.shares` must leave an epoch some rows, but leave none.")
        return quotas

    def rows(self, *, seed: int, epoch: int) -> array[int]:
        """The rows of an epoch, source by source; a function of its arguments."""
        drawn = array("I")
        for source, rows in self._rows.items():
            quota = self.quotas[source]
            start, stop = epoch * quota, (epoch + 1) * quota
            for turn in range(start // len(rows), -(-stop // len(rows))):
                order = array("I", rows)
                random.Random(f"{seed}/{source}/{turn}/mixture").shuffle(order)
                first = turn * len(rows)
                drawn.extend(order[max(start - first, 0) : stop - first])
        return drawn
