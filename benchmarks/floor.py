"""Count first: the floating-point work of a text in each shape, Spanwright's head and gliner's, and the floor in time.

    python benchmarks/floor.py --words 44 --subtokens 86 [--rate 2e11]

--rate is the measured matrix rate of the machine (FLOP/s); without it the rate of this processor is measured.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import shapes
import torch


@dataclass(frozen=True)
class Sizes:
    """Of a text and a model: words, subtokens with the prompt, labels, widths, hidden size."""

    words: int
    subtokens: int
    labels: int = 9
    widths: int = 12
    hidden: int = 512


def encoder(shape: str, sizes: Sizes) -> float:
    """FLOP of the transformer: two for each weight and subtoken, and attention."""
    config = shapes.SHAPES[shape]
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    gates = 3 if config["model_type"] == "modernbert" else 2  # of its gated feed-forward layer
    weights = layers * (4 * width**2 + gates * width * inner)
    kinds = 1 + 2 * 2 * (config["model_type"] == "deberta-v2")  # bands of 2·S distances, for queries and for keys
    attention = layers * 2 * (1 + kinds) * sizes.subtokens**2 * width
    return 2 * weights * sizes.subtokens + attention + 2 * width * sizes.hidden * sizes.subtokens


def words(sizes: Sizes) -> float:
    """FLOP of what both heads do for each word and label: LSTM, projections."""
    d = sizes.hidden
    lstm = 2 * 2 * 4 * (d // 2) * (d + d // 2)
    return sizes.words * (lstm + 2 * 2 * 8 * d**2) + sizes.labels * 2 * 8 * d**2


def factorised(sizes: Sizes) -> float:
    """FLOP of Spanwright's spans: halves for each word, a product for each span and label."""
    d = sizes.hidden
    return sizes.words * 2 * 8 * d**2 + sizes.labels * 2 * 4 * d**2 + spans(sizes) * sizes.labels * 2 * 4 * d


def plain(sizes: Sizes) -> float:
    """FLOP of gliner's spans: two layers for each span, a product for each span and label."""
    d = sizes.hidden
    return spans(sizes) * (2 * 2 * d * 4 * d + 2 * 4 * d * d + sizes.labels * 2 * d)


def spans(sizes: Sizes) -> int:
    """Cells that are computed, padding of the last widths included."""
    return sizes.words * sizes.widths


def measured_rate() -> float:
    """FLOP/s of float32 products of the size of a batch."""
    a, b = torch.randn(800, 768), torch.randn(768, 3072)
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * 800 * 768 * 3072 / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=44)
    parser.add_argument("--subtokens", type=int, default=86)
    parser.add_argument("--rate", type=float)
    options = parser.parse_args()
    sizes, rate = Sizes(options.words, options.subtokens), options.rate or measured_rate()
    print(f"{rate / 1e9:.0f} GFLOP/s; {sizes}\n")
    print("| shape | encoder, GFLOP | words | spans | spans, plain form | floor, ms a text | plain / factorised |")
    print("|---|---|---|---|---|---|---|")
    for shape in ("minilm-l6", "deberta-v3-small", "deberta-v3-base", "modernbert-base"):
        parts = [encoder(shape, sizes), words(sizes), factorised(sizes), plain(sizes)]
        own, other = sum(parts[:3]), sum(parts[:2]) + parts[3]
        cells = " | ".join(f"{part / 1e9:.2f}" for part in parts)
        print(f"| {shape} | {cells} | {own / rate * 1e3:.2f} | {other / own:.2f} |")


if __name__ == "__main__":
    main()
