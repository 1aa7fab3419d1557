"""Train the model in the package, from a pretrained MiniLM-L6 and the data that its card lists.

    python recipes/mini.py --encoder DIR --data DIR --output DIR

`--data` holds open_mix.jsonl.xz and written.jsonl.xz, as JSON lines in GLiNER's form whose `src` names the source;
the sentences that were written for this recipe are in recipes/data. Figures on data that is not trained on come last,
with `--dev` and `--test` folders of data sets as `spanwright benchmark zero-shot` reads them.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from spanwright import evaluate, train
from spanwright.cli.options import read_config
from spanwright.data.load import load_examples
from spanwright.evaluation.zero_shot import read_sets, zero_shot

HERE = Path(__file__).parent
OWN = HERE / "data"
_PLAIN = re.compile(r"[\w\s/'&().,-]{1,32}\Z", re.ASCII)  # a label that somebody might ask; not a table's odd heading


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of an xz-compressed file."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def mixed(folder: Path, target: Path) -> int:
    """Write all training lines to one file, without those whose labels nobody would ask; how many there are."""
    count = 0
    with target.open("w", encoding="utf-8") as file:
        for path in sorted([*folder.glob("*.jsonl.xz"), *OWN.glob("*.jsonl.xz")]):
            if path.name.endswith("_dev.jsonl.xz"):
                continue
            for row in rows(path):
                if all(_PLAIN.match(label) for _, _, label in row["ner"]):
                    row["ner_negatives"] = [label for label in row.get("ner_negatives", ()) if _PLAIN.match(label)]
                    file.write(json.dumps(row) + "\n")
                    count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder of MiniLM-L6")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--dev", type=Path, help="folder of data sets, of which NAME/dev.jsonl is measured")
    parser.add_argument("--test", type=Path, action="append", default=[], help="the same, NAME/test.jsonl")
    parser.add_argument("--set", action="append", default=[], help="as in `spanwright train`")
    parser.add_argument("--resume", action="store_true", help="go on from the newest state, as in `spanwright train`")
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    data = options.output / "mixture.jsonl"
    print(f"{mixed(options.data, data):,} lines")
    started = time.perf_counter()
    config = read_config(HERE / "mini.toml", options.set)
    result = train(
        options.encoder,
        data,
        output=options.output / "model",
        config=config,
        resume=options.resume,
        show=True,
        tell=print,
        skip_invalid=True,
    )
    minutes = (time.perf_counter() - started) / 60
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    figures: dict[str, Any] = {"options": options.set, "minutes": minutes, "steps": result.num_steps, "device": device}
    extractor = result.extractor
    if torch.cuda.is_available():
        extractor.model.to("cuda")
    for path in sorted([*options.data.glob("*_dev.jsonl.xz"), *OWN.glob("*_dev.jsonl.xz")]):
        held_out = options.output / path.name.removesuffix(".xz")
        held_out.write_text("".join(json.dumps(asked_of(row)) + "\n" for row in rows(path)), encoding="utf-8")
        micro = evaluate(extractor, load_examples(held_out).examples).micro
        figures[path.name.removesuffix(".jsonl.xz")] = [micro.precision, micro.recall, micro.f1]
    for folder, split in [(folder, "dev") for folder in [options.dev] if folder] + [(f, "test") for f in options.test]:
        found = zero_shot(extractor, read_sets(folder, split=split))
        figures[f"{folder.name}/{split}"] = {
            "mean": [found.mean_f1, *found.interval],
            **{each.name: each.report.micro.to_dict() for each in found.results},
        }
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


def asked_of(row: dict[str, Any]) -> dict[str, Any]:
    """A held-out line, asked its own labels and the negatives that it states."""
    labels = dict.fromkeys([*(label for _, _, label in row["ner"]), *row.get("ner_negatives", ())])
    return {**row, "ner_labels": list(labels)} if labels else row


if __name__ == "__main__":
    main()
