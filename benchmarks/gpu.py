"""Spanwright beside gliner on a GPU: answers, extraction, latency, labels, training, memory. About five minutes.

    PYTHONPATH=src python benchmarks/gpu.py --json results.json [--shapes minilm-l6 ...] [--quick]

Needs torch, transformers, accelerate and gliner 0.2.29 (`pip install --no-deps gliner==0.2.29`: what it imports beyond
those is numpy, packaging, safetensors, tqdm and huggingface_hub). gliner's rows are left out where it is absent.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import cases
import peer
import shapes
import torch
from timing import write

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = ("minilm-l6", "deberta-v3-base", "modernbert-base")


def look(shape: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one shape."""
    few = 24 if options.quick else options.few
    texts, labels = shapes.short_texts(options.texts), shapes.label_names()
    mixed = shapes.mixed_texts(options.texts // 4)
    extractor = shapes.extractor(shape, tokenizer_folder=options.tokenizer)
    rival = peer.load(extractor, DEVICE)
    extractor.model.to(DEVICE)
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any], **more: Any) -> None:
        rows.append({"shape": shape, **more, **row})
        print(f"[{time.perf_counter() - options.started:4.0f} s] {shape} {rows[-1]}", flush=True)

    add(cases.exact(extractor, rival, texts[: few // 5], labels)[1])
    sizes = (8, 16) if options.quick else (32, 128)
    for name in options.dtypes:
        dtype = DTYPES[name]
        if DEVICE == "cpu" and dtype != torch.float32:
            continue
        extractor.model.to(dtype)
        rival.to(dtype)
        batch = {"batch_sizes": sizes, "few": few, "repeats": 1 if dtype == torch.float32 else 2}
        add(cases.throughput(extractor, rival, texts, labels, **batch), dtype=name, texts_are="short")
        if dtype != torch.bfloat16:
            add(cases.latency(extractor, rival, texts, labels, times=4 if options.quick else 40), dtype=name)
    add(
        cases.throughput(extractor, rival, mixed, labels, batch_sizes=sizes, few=few // 4, repeats=1), texts_are="mixed"
    )
    if shape == "deberta-v3-base" or options.quick:
        counts = (9, 100) if options.quick else (10, 100, 1000)
        add(cases.many_labels(extractor, rival, texts[: few // 4], counts, few=few // 40 + 2))
    for model in (extractor.model, rival):
        model.to(torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        add(cases.half(extractor, texts[:200], labels, dtype))
    for training in options.training:
        precision, size, workers = training.split(":")
        fresh = {"device": DEVICE, "batch_size": int(size), "workers": int(workers), "precision": precision}
        steps = 3 if options.quick else 60
        add(cases.training(copy.deepcopy(extractor), rival, steps=steps, **fresh))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, choices=shapes.SHAPES)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--few", type=int, default=2000, help="texts that gliner is measured on")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer's folder; default MiniLM's or one made here")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES, help="of weights, in extraction")
    parser.add_argument("--training", nargs="*", default=["fp32:32:0", "bf16:32:14", "bf16:96:14"])
    parser.add_argument("--quick", action="store_true", help="a few texts, to see that the script runs")
    options = parser.parse_args()
    options.started = time.perf_counter()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: list[dict[str, Any]] = []
    for shape in options.shapes:
        try:
            rows += look(shape, options)
        except Exception as error:  # one shape must not cost the others' results
            rows.append({"shape": shape, "case": "error", "error": repr(error)[:300]})
            print(rows[-1], flush=True)
        path = write(f"gpu-{DEVICE}", rows, to=options.json)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    print(f"\n{path}\n\n" + table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in short."""
    lines = ["| shape | work | ours | gliner, best | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        kind = " ".join(
            str(row[key]) for key in ("case", "texts_are", "dtype", "precision", "batch_size") if key in row
        )
        if "ours_ms" in row:
            cells = f"{row['ours_ms']:.1f} ms | {row['peer_ms']:.1f} ms | {row['ratio']:.2f}"
        elif "peer" in row:
            memory = ""
            if "memory_ratio" in row:
                memory = f", memory {row['memory_ratio']:.2f} ({row['ours_gib']:.1f} of {row['peer_gib']:.1f} GiB)"
            cells = f"{row['ours']:.0f}/s | {row['peer']:.0f}/s | {row['ratio']:.2f}{memory}"
        else:
            left = {key: value for key, value in row.items() if key not in ("shape", "case", "dtype")}
            cells = f"{left} | |"
        lines.append(f"| {row.get('shape', '')} | {kind} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
