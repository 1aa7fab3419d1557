"""gliner's own trainer, always saving: what the kill campaign is held against."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import torch
from gliner import GLiNER
from gliner.training import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


def train_always_saving(folder: str, output: str, steps: int, acknowledged: str, *_: str) -> None:
    """A run that saves each step and notes each step whose save has ended; it goes on from the newest checkpoint."""
    warnings.simplefilter("ignore")
    rows = [json.loads(line) for line in Path(folder, "train.jsonl").read_text().splitlines()]
    model = GLiNER.from_pretrained(f"{folder}/model", local_files_only=True)
    arguments = TrainingArguments(
        output_dir=output,
        max_steps=steps,
        save_steps=1,
        save_strategy="steps",
        save_total_limit=2,
        per_device_train_batch_size=3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )

    class Noting(Trainer):
        def _save_checkpoint(self, *arguments, **rest):
            super()._save_checkpoint(*arguments, **rest)
            handle = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, f"{self.state.global_step}\n".encode())
            os.close(handle)

    trainer = Noting(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=model._create_data_collator(),
        processing_class=model.data_processor.transformer_tokenizer,
    )
    newest = next((c for c in checkpoints(Path(output)) if step_in(c) is not None), None)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)


def checkpoints(output: Path) -> list[Path]:
    """Newest first; the first is the one that transformers resumes from."""
    found = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    assert not found or str(found[0]) == get_last_checkpoint(str(output))
    return found


def step_in(folder: Path) -> int | None:
    """The step of a checkpoint whose files can all be read; None for any other."""
    names = ["pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
    try:
        json.loads((folder / "gliner_config.json").read_text())
        for name in names:
            torch.load(folder / name, map_location="cpu", weights_only=False)
        return int(json.loads((folder / "trainer_state.json").read_text())["global_step"])
    except Exception:
        return None
