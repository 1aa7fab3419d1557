"""Random sequences of operations, against a description of what the flags must be that knows nothing of the keeper.

2,000 sequences by default; 20,000 with SPANWRIGHT_MODES_FULL=1 (`make modes`). A failure names its seed.
"""

from __future__ import annotations

import copy
import os
import random
from contextlib import AbstractContextManager, ExitStack

import pytest
import torch

from spanwright import ModeError, modes
from spanwright.encoding import Row
from support.tiny import LABELS, SENTENCES, tiny_extractor
from support.watch import flags

NUM_SEQUENCES = 20_000 if os.environ.get("SPANWRIGHT_MODES_FULL") else 2_000
PARTS = ("backbone", "context", "labels", "spans", "spans.project_start")


class Described:
    """What the flags must be: which parts are frozen, and what the model was last told."""

    def __init__(self) -> None:
        self.frozen: set[str] = set()
        self.training = False
        self.told = False

    def is_frozen(self, name: str) -> bool:
        return any(name == part or name.startswith(part + ".") for part in self.frozen)

    def planned(self, model) -> dict[str, bool]:
        return {name: not self.is_frozen(name) for name in flags(model)}

    def resting(self, model) -> dict[str, bool]:
        return self.planned(model) if self.training else dict.fromkeys(flags(model), False)


class Play:
    """One sequence on one model. Each `op_` checks what it did; `settled` checks what lasts."""

    def __init__(self, extractor, batch, rng: random.Random) -> None:
        self.extractor, self.model, self.batch, self.rng = extractor, extractor.model, batch, rng
        self.described = Described()
        self.open: list[AbstractContextManager] = []
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-9
        )  # thousands of steps on one model: it must stay finite

    def settled(self) -> None:
        wanted = dict.fromkeys(flags(self.model), False) if self.open else self.described.resting(self.model)
        assert flags(self.model) == wanted
        assert torch.is_grad_enabled()

    def op_train(self) -> None:
        self.model.train()
        self.described.training = self.described.told = True

    def op_eval(self) -> None:
        self.model.eval()
        self.described.training, self.described.told = False, True

    def op_freeze(self) -> None:
        part = self.rng.choice(PARTS)
        modes.freeze(self.model, part)
        self.described.frozen = {p for p in self.described.frozen if not p.startswith(part + ".")} | {part}

    def op_thaw(self) -> None:
        part = self.rng.choice(PARTS)
        if part == "spans.project_start" and "spans" in self.described.frozen:
            return  # a child of a frozen part stays frozen with it; its parameters would not
        modes.thaw(self.model, part)
        self.described.frozen = {p for p in self.described.frozen if p != part and not p.startswith(part + ".")}

    def op_open(self) -> None:
        scope = modes.inference(self.model)
        scope.__enter__()
        torch.set_grad_enabled(True)  # scopes of one thread that end in any order: the gradient mode is the caller's
        self.open.append(scope)

    def op_close(self) -> None:
        if self.open:
            self.open.pop(self.rng.randrange(len(self.open))).__exit__(None, None, None)
            torch.set_grad_enabled(True)

    def op_extract(self) -> None:
        assert self.extractor.extract(SENTENCES[5], LABELS) == self.extractor.extract(SENTENCES[5], LABELS)

    def op_failing_extract(self) -> None:
        with pytest.raises(ValueError, match="must be a string"):
            self.extractor.extract(None, LABELS)

    def op_failing_scope(self) -> None:
        with pytest.raises(KeyboardInterrupt), modes.inference(self.model):
            raise KeyboardInterrupt

    def op_generator(self) -> None:
        """A generator that holds a scope, suspended, and closed by whoever drops it."""

        def answers():
            with modes.inference(self.model):
                yield 1
                yield 2

        generator = answers()
        next(generator)
        assert not any(flags(self.model).values())
        generator.close()
        assert torch.is_grad_enabled()

    def op_forward_without_gradients(self) -> None:
        with torch.no_grad():
            self.model(self.batch)

    def op_training_forward(self) -> None:
        self.optimizer.zero_grad()
        recording = any(p.requires_grad for p in self.model.parameters())
        if self.open:
            with pytest.raises(ModeError, match="must not record") if recording else ExitStack():
                self.model(self.batch)
        elif not recording or self.described.training or not self.described.told:
            output = self.model(self.batch).logits
            if recording:
                output.sum().backward()
                self.described.training = self.described.training or not self.described.told
        elif any(self.described.planned(self.model).values()):
            with pytest.raises(ModeError, match=r"every module must be in its declared mode"):
                self.model(self.batch)

    def op_step(self) -> None:
        if self.open:
            with pytest.raises(ModeError, match="must lie outside"), modes.training_step(self.model):
                pass
            return
        with modes.training_step(self.model) as step:
            assert flags(self.model) == self.described.planned(self.model)
            output = self.model(self.batch).logits
            if output.requires_grad:
                output.sum().backward()
            with pytest.raises(ModeError, match="must lie outside `training_step`"):
                self.extractor.extract(SENTENCES[5], LABELS)
            step.check()
            self.optimizer.step()

    def op_flip(self) -> None:
        """A flag set past everything: found by the next training, before any parameter changes, and named."""
        if self.open:
            return
        names = [name for name, planned in self.described.planned(self.model).items() if planned and name]
        if not names or not self.described.training:
            return
        name = self.rng.choice(names)
        module = self.model.get_submodule(name)
        module.training = False
        before = copy.deepcopy(self.model.state_dict())
        with pytest.raises(ModeError) as caught, modes.training_step(self.model):
            raise AssertionError("the step must not begin")
        assert f"1 is not: {name}." in str(caught.value)
        if any(p.requires_grad for p in self.model.parameters()):
            with pytest.raises(ModeError):
                self.model(self.batch)
        assert all(torch.equal(value, before[key]) for key, value in self.model.state_dict().items())
        module.training = True

    def op_copy(self) -> None:
        twin = copy.deepcopy(self.model)
        assert flags(twin) == flags(self.model)
        with modes.inference(twin):
            pass
        if not self.open:
            assert flags(twin) == self.described.resting(self.model)


OPERATIONS = sorted(name for name in dir(Play) if name.startswith("op_"))


@pytest.fixture(scope="module")
def actors():
    extractor = tiny_extractor("bert", num_rnn_layers=1, hidden_size=8, max_width=2)
    batch = extractor.encoder.encode([Row(tuple(SENTENCES[5].split()), LABELS[:1])])
    return extractor, batch


@pytest.mark.parametrize("part", range(4))
def test_random_sequences(actors, part):
    original, batch = actors
    extractor = type(original)(original.package)
    for seed in range(part, NUM_SEQUENCES, 4):
        rng = random.Random(seed)
        modes.thaw(extractor.model, "all")
        extractor.model.__dict__.pop("_told_training", None)
        modes.rest(extractor.model)
        play = Play(extractor, batch, rng)
        names = [rng.choice(OPERATIONS) for _ in range(12)]
        try:
            for name in names:
                getattr(play, name)()
                play.settled()
            while play.open:
                play.op_close()
            play.settled()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {', '.join(names)}") from error
