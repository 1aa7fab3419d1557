"""How the cost of a text grows: with its words, with labels, widths, the size of a batch, and cores.

python benchmarks/scaling.py [--shape minilm-l6] [--threads 1]      # measures, writes results/scaling.json
python benchmarks/scaling.py --plot                                 # draws docs/images/scaling.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapes
import torch
from timing import RESULTS, side_by_side, write

import spanwright.extractor as extraction

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "scaling.png"


def measured(shape: str, cores: int) -> Iterator[dict[str, Any]]:
    """Milliseconds of the processor for each text, as one thing changes and the rest stays."""
    labels = [f"{name} {n}" for n in range(112) for name in shapes.label_names()]
    stream = " ".join(shapes.short_texts(600)).split()
    base = shapes.extractor(shape)

    def row(what: str, value: int, extractor: Any, texts: list[str], asked: list[str]) -> dict[str, Any]:
        found = side_by_side({"it": lambda: extractor.extract_many(texts, asked)}, repeats=3)["it"]
        return {"what": what, "value": value, "ms": found["cpu"] * 1e3 / len(texts), "wall_ms": found["median"] * 1e3}

    for words in (16, 32, 64, 128, 256):
        texts = [" ".join(stream[i * words : (i + 1) * words]) for i in range(max(1024 // words, 4))]
        yield row("words", words, base, texts, labels[:9])
    some = shapes.short_texts(12)
    for count in (5, 10, 20, 50, 100, 200, 500, 1000):
        yield row("labels", count, base, some, labels[:count])
    for width in (4, 12, 24, 48):
        yield row("width", width, shapes.extractor(shape, max_width=width), some, labels[:9])
    usual = extraction._BATCH_TOKENS["cpu"]
    for tokens in (100, 200, 400, 800, 1600, 3200):
        extraction._BATCH_TOKENS["cpu"] = tokens
        yield row("batch", tokens, base, shapes.short_texts(48), labels[:9])
    extraction._BATCH_TOKENS["cpu"] = usual
    for threads in range(1, cores + 1):
        torch.set_num_threads(threads)
        yield row("cores", threads, base, shapes.short_texts(48), labels[:9])


def draw(rows: list[dict[str, Any]]) -> None:
    """One panel for each thing that changes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = {
        "words": "words of a text",
        "labels": "labels",
        "width": "widest span, in words",
        "batch": "subtokens of a batch",
        "cores": "threads",
    }
    figure = Figure(figsize=(13, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (what, name) in enumerate(names.items(), 1):
        axes = figure.add_subplot(1, len(names), place)
        points = [(row["value"], row["wall_ms" if what == "cores" else "ms"]) for row in rows if row["what"] == what]
        axes.plot(*zip(*points, strict=True), marker=".", color="#2b5797")
        unit = "ms for 48 texts, by the clock" if what == "cores" else "ms of the processor a text"
        axes.set(xlabel=name, ylabel=unit, ylim=(0, 1.08 * max(ms for _, ms in points)))
        if what == "cores":
            axes.set_xticks([value for value, _ in points])
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="minilm-l6", choices=shapes.SHAPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    if not options.plot:
        torch.set_num_threads(options.threads)
        rows = []
        for row in measured(options.shape, options.cores):
            rows.append({"shape": options.shape, **row})
            print(rows[-1], flush=True)
        write("scaling", rows)
    draw(json.loads((RESULTS / "scaling.json").read_text())["rows"])


if __name__ == "__main__":
    main()
