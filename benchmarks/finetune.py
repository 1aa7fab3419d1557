"""Fine-tune with several sets of options, one after the other, and print a table of what each reached.

    python benchmarks/finetune.py --model ENCODER --train T --dev D --test E --try "optimizer.lr=5e-4" ...

Each `--try` is a space-separated list of assignments as in `spanwright train --set`. JSON lines go to --json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import torch

from spanwright import evaluate, train
from spanwright.cli.options import read_config
from spanwright.data.load import load_examples


def run(options: argparse.Namespace, tried: str, folder: Path) -> dict[str, object]:
    config = read_config(options.config, tried.split())
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    result = train(options.model, options.train, options.dev, output=folder, config=config, show=options.show)
    seconds = time.perf_counter() - started
    examples = load_examples(options.test).examples
    extractor = result.extractor
    if torch.cuda.is_available():
        extractor.model.to("cuda")
    report = evaluate(extractor, examples)
    return {
        "try": tried,
        "dev_f1": result.report.micro.f1 if result.report else None,
        "test_f1": report.micro.f1,
        "test_macro_f1": report.macro_f1,
        "best_step": result.best_step,
        "steps": result.num_steps,
        "seconds": round(seconds, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    for name in ("train", "dev", "test"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--try", dest="tries", action="append", default=[])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    print(f"torch {torch.__version__} on {device}")
    for tried in options.tries or [""]:
        with tempfile.TemporaryDirectory() as folder:
            row = run(options, tried, Path(folder) / "run")
        print(
            f"dev {row['dev_f1']:.3f}  test {row['test_f1']:.3f}  step {row['best_step']:>5}/{row['steps']:<5} "
            f"{row['seconds']:>6} s  {row['peak_gib']} GiB  {tried}",
            flush=True,
        )
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"torch": torch.__version__, "device": device, **row}) + "\n")


if __name__ == "__main__":
    main()
