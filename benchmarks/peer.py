"""gliner 0.2.29 doing the same work on the same weights."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spanwright import Extractor

Answers = list[list[dict[str, Any]]]


def load(extractor: Extractor, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """Gliner with the weights of `extractor`."""
    from gliner import GLiNER

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extractor.save(Path(folder) / "model")
        peer = GLiNER.from_pretrained(f"{folder}/model", local_files_only=True)
    if (
        extractor.encoder.max_positions is None
    ):  # the tokenizer lent to these shapes has MiniLM's limit; theirs has none
        peer.data_processor.transformer_tokenizer.model_max_length = 10**9
    return peer.to(device).to(dtype)


def answers(peer: Any, texts: Sequence[str], labels: Sequence[str], batch_size: int, threshold: float = 0.5) -> Answers:
    """What gliner's `inference` gives."""
    found: Answers = peer.inference(list(texts), list(labels), threshold=threshold, batch_size=batch_size)
    return found


def training_rates(
    peer: Any, rows: list[dict[str, Any]], *, steps: int, warm_ups: int, batch_size: int, **options: Any
) -> float:
    """Rows a second of gliner's own trainer over `steps` steps after `warm_ups`."""
    from transformers import TrainerCallback

    times: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = peer.create_training_args(
            folder,
            per_device_train_batch_size=batch_size,
            max_steps=warm_ups + steps,
            save_strategy="no",
            logging_steps=10**6,
            disable_tqdm=True,
            **options,
        )
        from gliner.training import Trainer

        trainer = Trainer(
            model=peer,
            args=arguments,
            train_dataset=rows,
            data_collator=peer._create_data_collator(),
            processing_class=peer.data_processor.transformer_tokenizer,
            callbacks=[Watch()],
        )
        trainer.train()
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # gliner's trainer leaves its precision behind
    return steps * batch_size / (times[-1] - times[warm_ups - 1])
