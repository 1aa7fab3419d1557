"""Every entry point, however it ends, from every combination of modes: all is as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
import torch

from spanwright import Example, Span, evaluate, modes
from spanwright.checkpoint import files
from spanwright.encoding import Row
from spanwright.extractor import Extractor
from support.tiny import LABELS, SENTENCES, tiny_extractor
from support.watch import flags, set_flags, snapshot


class Planted(Exception):
    """What the faults raise."""


FAULTS: dict[str, type[BaseException] | None] = {"none": None, "error": Planted, "interrupt": KeyboardInterrupt}
EXAMPLES = [Example.from_words(SENTENCES[1].split(), [Span(0, 2, "person")])]


class Scene:
    """An extractor whose expensive inside is replaced by a stand-in that can fail at any of its points."""

    def __init__(self) -> None:
        self.extractor = tiny_extractor("bert", num_rnn_layers=1)
        self.batch = self.extractor.encoder.encode([Row(tuple(SENTENCES[5].split()), LABELS)])
        with modes.inference(self.extractor.model):
            self.scores = self.extractor.model(self.batch)
        self.fault: tuple[str, type[BaseException]] | None = None

    def reach(self, point: str) -> None:
        if self.fault is not None and self.fault[0] == point:
            raise self.fault[1]("planted")

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put a fault point before each stage, and random numbers nowhere."""
        model, encoder = self.extractor.model, self.extractor.encoder
        inside = model._scores

        def network(batch, threshold, adjacency):
            self.reach("network")
            assert flags(model) == dict.fromkeys(flags(model), False) or torch.is_grad_enabled()
            if batch is self.batch and not torch.is_grad_enabled():
                return self.scores
            return inside(batch, threshold, adjacency)

        patch.setattr(model, "_scores", network)
        for owner, name, point in (
            (encoder.subtokens, "ids", "tokenizer"),
            (encoder, "encode_tokenized", "encode"),
            (files, "settle", "disk"),
        ):
            patch.setattr(owner, name, self._watched(getattr(owner, name), point))
        import spanwright.extractor as module

        patch.setattr(module, "named", self._watched(module.named, "decode"))

    def _watched(self, function: Callable, point: str) -> Callable:
        def call(*args, **kwargs):
            self.reach(point)
            return function(*args, **kwargs)

        return call


def entry_points(scene: Scene, folder: Path) -> dict[str, tuple[Callable[[], object], tuple[str, ...]]]:
    """Each public call, with the points at which it can fail."""
    extractor, model = scene.extractor, scene.extractor.model

    def inference_scope():
        with modes.inference(model):
            scene.reach("body")
            assert not any(flags(model).values())

    def nested_scopes():
        with modes.inference(model), modes.saliency(model), modes.inference(model):
            scene.reach("body")
            assert not any(flags(model).values())

    def saliency_scope():
        with modes.saliency(model):
            scene.reach("body")
            assert torch.is_grad_enabled()

    def forward_in_inference():
        with modes.inference(model):
            model(scene.batch)

    def forward_in_saliency():
        with modes.saliency(model):
            model(scene.batch)

    def frozen_block():
        with modes.frozen(model, ["backbone", "labels"]):
            scene.reach("body")

    def load():
        scene.reach("body")
        Extractor.from_pretrained(folder / "package")

    def progress(_: int) -> None:
        scene.reach("callback")

    return {
        "inference": (inference_scope, ("body",)),
        "nested scopes": (nested_scopes, ("body",)),
        "saliency": (saliency_scope, ("body",)),
        "forward in inference": (forward_in_inference, ("network",)),
        "forward in saliency": (forward_in_saliency, ("network",)),
        "frozen": (frozen_block, ("body",)),
        "report": (lambda: str(modes.report(model)), ()),
        "extract": (
            lambda: extractor.extract(SENTENCES[5], LABELS),
            ("tokenizer", "encode", "network", "decode"),
        ),
        "extract nothing": (lambda: extractor.extract("", LABELS), ()),
        "extract_many": (
            lambda: extractor.extract_many([SENTENCES[5], ""], [LABELS, LABELS[:1]]),
            ("tokenizer", "encode", "network", "decode"),
        ),
        "evaluate": (
            lambda: evaluate(extractor, EXAMPLES, progress=progress),
            ("tokenizer", "encode", "network", "decode", "callback"),
        ),
        "save": (lambda: extractor.save(folder / "saved"), ("disk",)),
        "load": (load, ("body",)),
    }


CALLS = (
    "inference",
    "nested scopes",
    "saliency",
    "forward in inference",
    "forward in saliency",
    "frozen",
    "report",
    "extract",
    "extract nothing",
    "extract_many",
    "evaluate",
    "save",
    "load",
)
SLOW = {"evaluate", "save", "load"}  # from these, every eighth combination of modes
PARTS = ("", "backbone", "backbone.transformer", "context", "labels", "spans", "spans.out_project")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    made = Scene()
    made.extractor.save(folder / "package")
    with pytest.MonkeyPatch.context() as patch:
        made.install(patch)
        yield made, folder


def combinations(model) -> list[dict[str, bool]]:
    """All 2^7 ways to set the flags of seven parts, each part deciding for what it holds."""
    chosen = []
    for bits in itertools.product((False, True), repeat=len(PARTS)):
        owner = dict(zip(PARTS, bits, strict=True))
        chosen.append(
            {
                name: owner[max((p for p in PARTS if p == "" or name == p or name.startswith(p + ".")), key=len)]
                for name, _ in model.named_modules()
            }
        )
    return chosen


def surroundings() -> list[tuple[str, Callable[[], object]]]:
    """What the caller may be inside of."""
    return [
        ("nothing", nullcontext),
        ("no_grad", torch.no_grad),
        ("autocast", lambda: torch.autocast("cpu", torch.bfloat16)),
        ("enable_grad", torch.enable_grad),
    ]


def cases_of(name: str, points: tuple[str, ...], num_flags: int) -> list[tuple[str | None, str, int, int]]:
    """(point, fault, flags, surroundings): every fault with all flags, each with two of the four surroundings."""
    ways = [(None, "none")] + [(point, kind) for point in points for kind in ("error", "interrupt")]
    return [
        (point, kind, flags, place)
        for (number, (point, kind)), flags in itertools.product(enumerate(ways), range(num_flags))
        if name not in SLOW or (flags + number) % 8 == 0
        for place in ((flags + number) % 4, (flags // 4 + number + 2) % 4)
    ]


@pytest.mark.parametrize("name", CALLS)
def test_every_call_leaves_everything_as_it_found_it(scene, name):
    made, folder = scene
    model = made.extractor.model
    call, points = entry_points(made, folder)[name]
    every_flags, around = combinations(model), surroundings()
    for point, kind, index, place in cases_of(name, points, len(every_flags)):
        case = f"fault {kind} at {point}, flags {index:07b}, inside {around[place][0]}"
        made.fault = None if point is None else (point, FAULTS[kind])
        set_flags(model, every_flags[index])
        with ExitStack() as stack:
            stack.enter_context(around[place][1]())
            before = snapshot(made.extractor)
            if point is None:
                call()
            else:
                with pytest.raises(FAULTS[kind]):
                    call()
            assert snapshot(made.extractor) == before, case
    made.fault = None


def test_the_grid_has_at_least_ten_thousand_cases(scene):
    made, folder = scene
    calls = entry_points(made, folder)
    assert tuple(calls) == CALLS
    assert sum(len(cases_of(name, points, 128)) for name, (_, points) in calls.items()) >= 10_000
