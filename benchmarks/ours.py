"""Spanwright doing the work that is measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spanwright import Example, Extractor, Span, train
from spanwright.train_config import LoopOptions, TrainConfig
from spanwright.training.record import Recorder


def examples(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[Example]:
    """Rows in GLiNER's own form as examples that ask `labels`."""
    return [
        Example.from_words(
            row["tokenized_text"],
            [Span(start, end + 1, label) for start, end, label in row["ner"]],
            labels=tuple(labels),
            origin=f"row:{index}",
        )
        for index, row in enumerate(rows)
    ]


def training_rates(
    extractor: Extractor, rows: Sequence[Example], *, steps: int, warm_ups: int, device: str, **loop: Any
) -> float:
    """Rows a second of `train` over `steps` steps after `warm_ups`, with everything that a run does on the way."""
    times: list[float] = []
    counts: list[int] = []

    class Watch(Recorder):
        def step(self, step: int, values: Any, num_rows: int) -> None:
            super().step(step, values, num_rows)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            counts.append(num_rows)

    import spanwright.training.loop as loop_module

    plain, loop_module.Recorder = loop_module.Recorder, Watch  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as folder:
            options = LoopOptions(max_steps=warm_ups + steps, max_batch_tokens=10**6, save_every=10**6, **loop)
            config = TrainConfig(training=options)
            train(extractor, rows, output=Path(folder) / "run", config=config, device=device)
    finally:
        loop_module.Recorder = plain  # type: ignore[misc]
    return sum(counts[warm_ups:]) / (times[-1] - times[warm_ups - 1])
