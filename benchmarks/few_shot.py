"""F1 after fine-tuning on a few sentences, beside gliner's trainer: the same start, rows, steps, rates and loss.

    python benchmarks/few_shot.py --data DIR [--sets crossner_politics ...] [--json few_shot.json]
    python benchmarks/few_shot.py --draw few_shot.png --results few_shot.json

DIR holds data sets as `spanwright benchmark zero-shot` reads them, with train.jsonl and test.jsonl. Both trainers begin
with the model in the package and see the same sentences, drawn by seed; both results are measured by Spanwright, which
gives the same answers as gliner for the same weights. gliner's rows are left out where it is absent.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import spanwright.training.run as run_module
from spanwright import DecodeOptions, Extractor, evaluate, train
from spanwright.cli.options import read_config
from spanwright.data.load import load_examples
from spanwright.entities import Example
from spanwright.evaluation.zero_shot import DataSet, read_sets
from spanwright.train_config import TrainConfig

RECIPE = Path(__file__).parents[1] / "examples" / "demo.toml"
SIZES = (5, 10, 50, 100, 200)
AT_HALF = DecodeOptions(threshold=0.5)


def steps_for(size: int) -> int:
    """The budget, for both."""
    return 20 + size // 2


def ours(start: Path, rows: Sequence[Example], folder: Path, config: TrainConfig, device: str) -> None:
    train(start, rows, output=folder, config=config, device=device)


def theirs(start: Path, rows: Sequence[Example], folder: Path, config: TrainConfig, device: str) -> None:
    """Gliner's trainer under the same options, in its own words."""
    from gliner import GLiNER

    optimizer, loss = config.optimizer, config.loss
    labels = sorted({span.label for row in rows for span in row.spans})
    lines = [
        {
            "tokenized_text": list(row.word_texts),
            "ner": [[span.start, span.end - 1, span.label] for span in row.spans],
            "ner_labels": labels,
        }
        for row in rows
    ]
    model = GLiNER.from_pretrained(str(start), local_files_only=True).to(device)
    torch.manual_seed(config.training.seed)
    model.train_model(
        train_dataset=lines,
        eval_dataset=None,
        output_dir=str(folder / "trainer"),
        max_steps=config.training.max_steps,
        per_device_train_batch_size=config.training.batch_size,
        learning_rate=optimizer.backbone_lr,
        others_lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        others_weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_grad_norm,
        lr_scheduler_type=optimizer.schedule,
        warmup_ratio=optimizer.warmup,
        focal_loss_alpha=loss.focal_alpha,
        focal_loss_gamma=loss.focal_gamma,
        loss_reduction=loss.reduction,
        seed=config.training.seed,
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_num_workers=0,
    )
    model.save_pretrained(str(folder / "model"))


def measured(folder: Path, data: DataSet, device: str) -> float:
    """Micro F1 at 0.5."""
    extractor = Extractor.from_pretrained(folder, device=device)
    return evaluate(extractor, data.examples, data.labels, AT_HALF).micro.f1


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run_module.draw_curve = lambda _: None
    known = {"spanwright": ours} | ({"gliner": theirs} if importlib.util.find_spec("gliner") else {})
    trainers = {name: known[name] for name in options.trainers if name in known}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = Path(temporary) / "start"
        Extractor.from_pretrained(options.model, device="cpu").save(start)
        for data in (each for each in read_sets(options.data, split=options.split) if each.name in options.sets):
            pool = load_examples(options.data / data.name / "train.jsonl").examples
            zero = {"set": data.name, "size": 0, "f1": measured(start, data, device)}
            results += [{**zero, "trainer": name, "seed": 0} for name in trainers]
            for size in (each for each in options.sizes if each <= len(pool)):
                for seed in options.seeds:
                    rows = random.Random(seed).sample(pool, size)
                    for name, trainer in trainers.items():
                        own = [f"training.seed={seed}", f"training.max_steps={steps_for(size)}"]
                        config = read_config(RECIPE, [*own, *options.set])
                        folder = Path(temporary) / f"{data.name}-{size}-{seed}-{name}"
                        began = time.perf_counter()
                        trainer(start, rows, folder, config, device)
                        seconds = time.perf_counter() - began
                        place = folder if (folder / "gliner_config.json").is_file() else folder / "model"
                        row = {"set": data.name, "size": size, "seed": seed, "trainer": name}
                        results.append({**row, "f1": measured(place, data, device), "seconds": round(seconds, 1)})
                        print(results[-1], flush=True)
                        if options.json:
                            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """Mean and range over seeds."""
    lines = ["| data set | sentences | Spanwright | gliner 0.2.29 |", "|---|---|---|---|"]
    for name, size in dict.fromkeys((row["set"], row["size"]) for row in results):
        cells = []
        for trainer in ("spanwright", "gliner"):
            found = [100 * r["f1"] for r in results if (r["set"], r["size"], r["trainer"]) == (name, size, trainer)]
            spread = f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "")
        lines.append(f"| {name} | {size} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def draw(results: Sequence[dict[str, Any]], target: Path) -> None:
    """The curves, a panel for each data set."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["set"] for row in results))
    figure = Figure(figsize=(5 * len(names), 3.6), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        for trainer, colour in (("spanwright", "tab:blue"), ("gliner", "tab:orange")):
            sizes = sorted({r["size"] for r in results if (r["set"], r["trainer"]) == (name, trainer)})
            groups = [
                [100 * r["f1"] for r in results if (r["set"], r["size"], r["trainer"]) == (name, size, trainer)]
                for size in sizes
            ]
            if not sizes:
                continue
            ticks = [max(size, 2) for size in sizes]
            axes.plot(ticks, [statistics.mean(group) for group in groups], "o-", color=colour, label=trainer)
            axes.fill_between(ticks, [min(g) for g in groups], [max(g) for g in groups], color=colour, alpha=0.2)
        axes.set(xscale="log", title=name, xlabel="training sentences", ylabel="micro F1")
        axes.set_xticks([2, *SIZES], ["0", *map(str, SIZES)])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(target, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="+", default=["crossner_politics", "crossner_science"])
    parser.add_argument("--trainers", nargs="+", default=["spanwright", "gliner"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--set", action="append", default=[], help="as in `spanwright train`")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--draw", type=Path, metavar="PNG", help="draw what is in --results instead")
    parser.add_argument("--results", nargs="+", type=Path, default=(), help="what --json has written")
    options = parser.parse_args()
    if options.draw:
        read = [row for path in options.results for row in json.loads(path.read_text(encoding="utf-8"))]
        results = list({(row["set"], row["size"], row["trainer"], row["seed"]): row for row in read}.values())
        draw(results, options.draw)
    elif options.data is None:
        parser.error("--data must name a folder of data sets")
    else:
        results = compare(options)
    print(table(results))


if __name__ == "__main__":
    main()
