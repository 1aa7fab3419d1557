"""What processes decide together, seen from one: the others' messages are made up. Two real ones: tests/faults."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import pytest
import torch
from torch import distributed, nn

from spanwright import ModeError, TrainingError, modes
from spanwright.training import together as together_module
from spanwright.training.agreement import Alone, Part
from spanwright.training.exchange import exchange
from spanwright.training.shards import gather_weights, load_sharded, shard_optimizer, unsharded
from spanwright.training.together import Together, _bits_of, _float_of, _packed, _unpacked
from support.tiny import tiny_extractor


@pytest.fixture
def together():
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=20))
    try:
        yield Together(5.0)
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def model():
    return tiny_extractor().model


CALM = Part(0.25, [True, False, True], None, 0)


def test_one_process_agrees_with_itself(together, model):
    done: list[int] = []
    for agreement in (Alone(), together):
        verdict = agreement.judge(3, model, CALM)
        assert (verdict.signal, verdict.gradients, verdict.loss) == (0, [True, False, True], 0.25)
        assert agreement.meet("here", received=15) == 15
        assert agreement.sum(7) == 7
        assert agreement.gather({"a": 1}) == [{"a": 1}]
        assert agreement.from_main("x") == "x"
        agreement.on_main(lambda: done.append(1))
        assert agreement.watch("there", lambda: 4) == 4
        with pytest.raises(ZeroDivisionError):
            agreement.on_main(lambda: 1 / 0)
        tensor = torch.ones(2)
        agreement.copy_from_main([tensor])
        assert tensor.tolist() == [1, 1]
    assert done == [1, 1]


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(TrainingError("no"), TrainingError), (ModeError("no"), ModeError), (KeyError("no"), TrainingError)],
)
def test_trouble_of_ones_own_names_the_rank(together, model, trouble, kind):
    with pytest.raises(kind, match=r"On rank 0: .*no"):
        together.judge(1, model, Part(0.0, [], trouble, 0))
    with pytest.raises(kind, match=r"On rank 0: .*no"):
        together.meet("The evaluation", trouble=trouble)
    with pytest.raises(type(trouble)):
        Alone().judge(1, model, Part(0.0, [], trouble, 0))


def other_says(monkeypatch, together, **changes):
    """A second process whose message is this one's but for some places."""
    places = {"fingerprint": 0, "step": 1, "signal": 2, "trouble": 3, "loss": 4, "gradients": 5}

    def numbers(mine, _):
        theirs = list(mine)
        for name, value in changes.items():
            theirs[places[name]] = value
        return [list(mine), theirs]

    monkeypatch.setattr(together, "_numbers", numbers)


def test_what_another_brings_counts(together, model, monkeypatch):
    other_says(monkeypatch, together, signal=15, loss=_bits_of(0.5), gradients=0b010)
    verdict = together.judge(3, model, CALM)
    assert (verdict.signal, verdict.gradients, verdict.loss) == (15, [True, True, True], 0.75)


def test_trouble_of_another_is_everyones(together, model, monkeypatch):
    other_says(monkeypatch, together, trouble=1)
    monkeypatch.setattr(together, "gather", lambda own: [own, "TrainingError: memory ran out"])
    with pytest.raises(TrainingError, match=r"Step 3 was given up on all 1 ranks, for rank 1: TrainingError: memory"):
        together.judge(3, model, CALM)


def test_another_step_is_refused(together, model, monkeypatch):
    other_says(monkeypatch, together, step=4)
    with pytest.raises(TrainingError, match="same step, but are not: rank 0 at 3, rank 1 at 4"):
        together.judge(3, model, CALM)


def test_another_mode_is_named(together, model, monkeypatch):
    other_says(monkeypatch, together, fingerprint=1)
    theirs = modes.states(model) | {"context": "evaluation, declared frozen"}
    monkeypatch.setattr(together, "gather", lambda own: [own, theirs])
    with pytest.raises(ModeError, match=r"context \(evaluation, declared train on rank 0, .*frozen on rank 1\)"):
        together.judge(3, model, CALM)


def test_an_error_of_the_main_process_is_everyones(together, monkeypatch):
    monkeypatch.setattr(together, "from_main", lambda _: ("StorageError", "the disk is full"))
    with pytest.raises(TrainingError, match="Rank 0 could not do its part: StorageError: the disk is full"):
        together.on_main(lambda: None)


@pytest.mark.parametrize(
    ("entry", "message", "killed"),
    [
        ("0 4242 {host}", r"within 5 s, but rank 1 \(process 4242 on .*\) did not", [(4242, signal.SIGKILL)]),
        ("0 4242 elsewhere", r"rank 1 \(process 4242 on elsewhere\) did not", []),
        ("99 4242 {host}", "the connection to one broke off", []),
        (None, "but rank 0 died", []),
    ],
)
def test_who_does_not_come_is_named(together, monkeypatch, entry, message, killed):
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(together_module.time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    together._size = 2
    host = together_module.socket.gethostname()

    class Store:
        def set(self, *_):
            pass

        def get(self, key):
            if entry is None:
                raise RuntimeError("connection refused")
            return (f"5 1 {host}" if key.endswith("0") else entry.format(host=host)).encode()

    monkeypatch.setattr(together, "_store", Store())
    together._reached = 4

    def times_out():
        raise RuntimeError("Timed out waiting 5000ms")

    with pytest.raises(TrainingError, match=message):
        together.watch("the boundary of step 7", times_out)
    assert sent == killed


def test_bits():
    flags = [bool(number % 3) for number in range(130)]
    assert _unpacked(_packed(flags), 130) == flags
    assert [_float_of(_bits_of(value)) for value in (0.1, -1e300, 0.0)] == [0.1, -1e300, 0.0]


def test_gradients_travel_in_buckets(together, monkeypatch):
    sizes: list[int] = []

    def doubled(flat):
        sizes.append(flat.numel())
        flat.mul_(2)

    monkeypatch.setattr(distributed, "all_reduce", doubled)
    monkeypatch.setattr("spanwright.training.exchange._BUCKET", 40)
    parameters = [nn.Parameter(torch.zeros(size, dtype=kind)) for size, kind in
                  [(4, torch.float32), (5, torch.float32), (20, torch.float32), (2, torch.float64)]]  # fmt: skip
    for parameter in parameters[1:]:
        parameter.grad = torch.ones_like(parameter)
    assert exchange(parameters) == 4 * 29 + 8 * 2
    assert sizes == [9, 20, 2]
    assert parameters[0].grad.tolist() == [0] * 4
    assert all(bool((p.grad == 2).all()) for p in parameters[1:])


def test_sharded_weights_and_back(together):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    plain = nn.Linear(4, 3)
    whole = {name: value.clone() for name, value in plain.state_dict().items()}
    fully_shard(plain, mesh=init_device_mesh("cpu", (1,)))
    assert all(torch.equal(value, whole[name]) for name, value in gather_weights(plain).items())
    load_sharded(plain, {name: value + 1 for name, value in whole.items()})
    assert all(torch.equal(value, whole[name] + 1) for name, value in gather_weights(plain).items())
    optimizer = torch.optim.AdamW(plain.parameters())
    plain(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = unsharded(optimizer.state_dict())
    again = torch.optim.AdamW(plain.parameters())
    again.load_state_dict(state)
    shard_optimizer(again)
    for one, other in zip(optimizer.state.values(), again.state.values(), strict=True):
        for name, value in one.items():
            assert type(other[name]) is type(value)
            assert torch.equal(unsharded(value), unsharded(other[name]))
