"""Where kernels of our own are used, and what happens where they cannot be built."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from spanwright.model import kernels

GPU = torch.device("cuda", 0)


@pytest.fixture
def a_gpu(monkeypatch):
    """A GPU of capability 9 with Triton, as far as anybody asks."""
    monkeypatch.setattr(kernels, "_tried", {})
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return monkeypatch


def test_a_processor_has_none():
    assert not kernels.are_to_be_had(torch.device("cpu"))


def test_without_triton_there_are_none(a_gpu, caplog):
    a_gpu.setattr(importlib.util, "find_spec", lambda name: None)
    assert not kernels.are_to_be_had(GPU)
    assert not caplog.records  # nothing is amiss: torch for this system comes without


def test_an_old_gpu_has_none(a_gpu, caplog):
    a_gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not kernels.are_to_be_had(GPU)
    assert not caplog.records  # it was not even tried


def test_another_makers_gpu_has_none(a_gpu, caplog):
    a_gpu.setattr(torch.version, "hip", "6.2")
    assert not kernels.are_to_be_had(GPU)
    assert not caplog.records


def test_while_something_is_recorded_nothing_is_tried(a_gpu):
    tries = []
    a_gpu.setattr(kernels, "_can_be_built", lambda device: tries.append(1) or True)
    a_gpu.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not kernels.are_to_be_had(GPU)
    a_gpu.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert kernels.are_to_be_had(GPU)
    a_gpu.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert kernels.are_to_be_had(GPU)
    assert len(tries) == 1


def test_they_can_be_switched_off(a_gpu):
    a_gpu.setattr(kernels, "_can_be_built", lambda device: True)
    assert kernels.are_to_be_had(GPU)
    a_gpu.setattr(kernels, "enabled", False)
    assert not kernels.are_to_be_had(GPU)


def test_what_cannot_be_built_is_told_once(a_gpu, caplog):
    a_gpu.setitem(sys.modules, "spanwright.model.kernels.spans", None)  # as good as no compiler
    assert not kernels.are_to_be_had(GPU)
    assert not kernels.are_to_be_had(GPU)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be built" in caplog.text


def test_what_torch_compiles_keeps_to_the_plain_forms(a_gpu):
    a_gpu.setattr(kernels, "_can_be_built", lambda device: True)
    assert kernels.are_to_be_had(GPU)
    a_gpu.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not kernels.are_to_be_had(GPU)
