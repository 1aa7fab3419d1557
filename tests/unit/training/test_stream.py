"""Micro-batches read ahead of their step."""

from __future__ import annotations

import pytest
import torch

from spanwright.training.stream import Ahead, MicroBatch
from support.loop import training_batch
from support.tiny import tiny_extractor


@pytest.fixture
def micro_batches():
    batch, targets = training_batch(tiny_extractor())
    return [MicroBatch(batch, targets, (str(number),)) for number in range(5)]


def origins(micro_batches):
    return ["".join(micro.origins) for micro in micro_batches]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("prepares", [(), (0,), (0, 1, 2, 3)])
def test_each_step_gets_its_own_whether_they_were_prepared_or_not(device, prepares, micro_batches):
    ahead = Ahead(iter(micro_batches), 2, torch.device(device))
    steps = []
    for step in range(4):
        steps.append(origins(ahead.read()))
        if step in prepares:
            ahead.prepare()
            ahead.prepare()  # a second time changes nothing
    assert steps == [["0", "1"], ["2", "3"], ["4"], []]


@pytest.mark.parametrize(("device", "read_ahead"), [("cpu", 0), ("meta", 2)])
def test_a_device_has_the_next_ones_already(device, read_ahead, micro_batches):
    rest = iter(micro_batches)
    ahead = Ahead(rest, 2, torch.device(device))
    ahead.read()
    ahead.prepare()
    assert len(list(rest)) == 3 - read_ahead
    if read_ahead:
        assert {micro.batch.input_ids.device.type for micro in ahead.read()} == {device}


def test_rows_for_which_there_is_no_memory_yet_are_sent_by_their_step(micro_batches, monkeypatch):
    def exhausted(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    ahead = Ahead(iter(micro_batches), 2, torch.device("meta"))
    assert origins(ahead.read()) == ["0", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(MicroBatch, "to", exhausted)
        ahead.prepare()
    found = ahead.read()
    assert origins(found) == ["2", "3"]
    assert {micro.batch.input_ids.device.type for micro in found} == {"cpu"}


def test_what_goes_wrong_ahead_is_the_next_steps_trouble(micro_batches):
    def source():
        yield micro_batches[0]
        raise OSError("the disk is gone")

    ahead = Ahead(source(), 1, torch.device("meta"))
    assert origins(ahead.read()) == ["0"]
    ahead.prepare()
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            ahead.read()
