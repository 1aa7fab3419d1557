"""Spanwright beside gliner on the processor: answers first, then extraction, latency, labels, training, decoding.

make bench            # the short form, some minutes on two cores
python benchmarks/cpu.py --shapes minilm-l6 deberta-v3-small --texts 400 --repeats 5 --threads 2
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import cases
import peer
import shapes
import torch
from timing import write

from gpu import table

SIZES = (1, 4, 8, 16, 32)


def look(shape: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one shape."""
    extractor, labels = shapes.extractor(shape), shapes.label_names()
    rival = peer.load(extractor, "cpu")
    few = options.texts // 2
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any], **more: Any) -> None:
        rows.append({"shape": shape, **more, **row})
        print(rows[-1], flush=True)

    for kind, texts in (("short", shapes.short_texts(options.texts)), ("mixed", shapes.mixed_texts(options.texts))):
        add(cases.exact(extractor, rival, texts, labels)[1], texts_are=kind)
        speed = {"batch_sizes": options.sizes, "few": few, "repeats": options.repeats}
        add(cases.throughput(extractor, rival, texts, labels, **speed), texts_are=kind)
    add(cases.latency(extractor, rival, shapes.short_texts(40), labels, times=4 * options.repeats))
    if shape in ("minilm-l6", "tiny"):
        add(cases.many_labels(extractor, rival, shapes.short_texts(16), (10, 100, 1000), few=4))
        for precision in ("fp32", "bf16"):
            training = {"device": "cpu", "batch_size": 8, "steps": options.steps, "workers": 0, "precision": precision}
            add(cases.training(copy.deepcopy(extractor), copy.deepcopy(rival), **training))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["minilm-l6"], choices=shapes.SHAPES)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="of training, after 5 that are not counted")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="gliner's batch sizes; its best counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [cases.dense_decoding()]
    print(rows[0], flush=True)
    for shape in options.shapes:
        rows += look(shape, options)
    print(f"\n{write(options.name, rows)}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
