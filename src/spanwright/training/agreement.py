"""What the processes of a run agree on before they go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

from torch import Tensor, nn

from spanwright import faults

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the processes agreed on.

    signal: a stop signal that one of them received (0: none); gradients: which at least one has; loss: summed over all.
    """

    signal: int
    gradients: list[bool]
    loss: float


@dataclass(frozen=True, slots=True)
class Part:
    """What one process brings to the boundary of a step."""

    loss: float
    gradients: list[bool]
    trouble: Exception | None
    received: int


class Agreement(ABC):
    """Meetings of all processes of a run. Each process must come to the same ones, in the same order."""

    messages: int = 0

    @abstractmethod
    def judge(self, step: int, model: nn.Module, part: Part) -> Verdict:
        """Whether step `step` may update the weights, decided alike in all processes by one message from each.

        Raises:
            TrainingError, ModeError: something went wrong in one of them, or they are not alike; its rank is named.

        """

    @abstractmethod
    def meet(self, what: str, *, trouble: Exception | None = None, received: int = 0) -> int:
        """A place that all processes pass together, or none: raises what went wrong in one. Signals as in `Verdict`."""

    @abstractmethod
    def sum(self, value: int) -> int:
        """The sum of `value` over all processes."""

    @abstractmethod
    def gather(self, value: Value) -> list[Value]:
        """The `value` of each process."""

    @abstractmethod
    def from_main(self, value: Value) -> Value:
        """The main process's `value`."""

    @abstractmethod
    def on_main(self, function: Callable[[], object]) -> None:
        """Call `function` in the main process while the others wait; what it raises, all raise."""

    @abstractmethod
    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors equal to the main process's."""

    @abstractmethod
    def watch(self, what: str, collective: Callable[[], Value]) -> Value:
        """A meeting of another group; who does not come is named."""


@final
class Alone(Agreement):
    """The agreement of one process with itself."""

    def judge(self, step: int, model: nn.Module, part: Part) -> Verdict:
        """As `Agreement.judge`."""
        faults.point("step.agree")
        if part.trouble is not None:
            raise part.trouble
        return Verdict(part.received, part.gradients, part.loss)

    def meet(self, what: str, *, trouble: Exception | None = None, received: int = 0) -> int:
        """As `Agreement.meet`."""
        if trouble is not None:
            raise trouble
        return received

    def sum(self, value: int) -> int:
        """As `Agreement.sum`."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """As `Agreement.gather`."""
        return [value]

    def from_main(self, value: Value) -> Value:
        """As `Agreement.from_main`."""
        return value

    def on_main(self, function: Callable[[], object]) -> None:
        """As `Agreement.on_main`."""
        function()

    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        """As `Agreement.copy_from_main`."""

    def watch(self, what: str, collective: Callable[[], Value]) -> Value:
        """As `Agreement.watch`."""
        return collective()
