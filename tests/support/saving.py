"""What the children of the fault campaigns do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spanwright.cli import main
from spanwright.training import loop as loop_module
from spanwright.training import run as run_module
from support.data import sentences
from support.runs import CASES
from support.tiny import tiny_extractor


def prepare(folder: Path) -> None:
    """A model and data for `command_line`."""
    from support.data import write_jsonl

    tiny_extractor(dropout=0.3).save(folder / "model")
    write_jsonl(folder / "train.jsonl", sentences())


def command_line(*arguments: str) -> None:
    """`spanwright` with `arguments`, without the picture at the end."""
    run_module.draw_curve = lambda _: None
    sys.argv = ["spanwright", *arguments]
    main()


def train_always_saving(folder: str, output: str, steps: int, acknowledged: str, *more: str) -> None:
    """A training run from the command line that saves each step and notes each step whose save has ended."""
    real = loop_module.save_state

    def save(where, state, *, keep):
        done = real(where, state, keep=keep)
        handle = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{state.progress.step}\n".encode())
        os.close(handle)
        return done

    loop_module.save_state = save
    command_line(*train_arguments(folder, output, steps), *more)


def train_arguments(folder: str, output: str, steps: int) -> list[str]:
    """A run of `steps` steps that saves each of them."""
    options = {
        "training.max_steps": steps,
        "training.batch_size": 3,
        "training.save_every": 1,
        "validation.every": 5,
        "optimizer.lr": 1e-3,
    }
    assignments = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    data = f"{folder}/train.jsonl"
    return ["train", "--model", f"{folder}/model", "--train", data, "--dev", data, "--output", output, *assignments]


def train_case(name: str, output: str, seed: int) -> None:
    """One life of a case of `support.runs`."""
    run_module.draw_curve = lambda _: None
    CASES[name].run(Path(output), seed=seed, resume=True)


def limited(size: int, *arguments: str) -> None:
    """`command_line` with a limit on the size of files."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    command_line(*arguments)


def command_line_with_peak(*arguments: str) -> None:
    """`command_line`, and the most memory that the process held."""
    import re

    Path("/proc/self/clear_refs").write_text("5")
    try:
        command_line(*arguments)
    finally:
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        print(f"peak {peak[1] if peak else 0} KiB")
