"""What `inspect` says that a GPU does by itself."""

from __future__ import annotations

import pytest

from spanwright.checkpoint import inspect_package
from support.tiny import tiny_extractor


def choices_of(folder, family, **changes):
    extractor = tiny_extractor(family, **changes)
    extractor.save(folder)
    return inspect_package(extractor.package, folder).choices


@pytest.mark.parametrize(
    ("family", "changes", "kernels"),
    [
        ("bert", {}, "span products"),
        ("deberta-v2", {}, "span products, attention"),
        ("modernbert", {}, "span products, attention, positions, gate"),
        ("bert", {"span_mode": "token_level"}, None),
    ],
)
def test_the_kernels_of_a_model_are_named(family, changes, kernels, tmp_path):
    told = choices_of(tmp_path / "model", family, **changes)["kernels"]
    assert told == (f"of our own on a GPU with Triton: {kernels}" if kernels else "none of our own for this kind")


@pytest.mark.parametrize(("family", "replays"), [("bert", True), ("deberta-v2", True)])
def test_whether_small_batches_are_replayed_is_told(family, replays, tmp_path):
    told = choices_of(tmp_path / "model", family)["small batches"]
    assert ("recorded once and replayed" in told) == replays
    assert (
        "run, not replayed"
        in choices_of(tmp_path / "head", family, span_mode="token_level", span_head=True)["small batches"]
    )
