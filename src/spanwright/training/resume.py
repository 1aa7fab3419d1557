"""How a run begins: anew, or from a state; and what may have changed since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanwright.training.state import State, newest_state, require_same


@dataclass(frozen=True, slots=True)
class Resume:
    """wanted: go on from the newest whole state, if there is one. accept_changes: also where the run has changed."""

    wanted: bool = False
    accept_changes: bool = False

    def find(self, output: Path, say: Callable[[str], object]) -> Path | None:
        """The state to go on from; None to begin anew."""
        return newest_state(output, say) if self.wanted else None

    def accept(self, state: State, now: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What has changed since `state`.

        Raises:
            ConfigError: something has, and may not.

        """
        return require_same(state, now, accept=self.accept_changes)

    @staticmethod
    def num_steps(state: State, planned: int, stride: int, total: float) -> int:
        """Steps of the whole run, where one now takes `stride` of `total` micro-batches.

        As planned, unless the micro-batches of a step have changed: then the rest of the data decides.
        """
        progress = state.progress
        if progress.position == progress.step * stride:
            return planned
        return progress.step + max(round((total - progress.position) / stride), 0)
