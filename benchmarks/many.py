"""Step time and what is communicated, over 1, 2, 4 and 8 processes (gloo) on this machine.

    PYTHONPATH=tests python benchmarks/many.py --encoder FOLDER [--steps 5]

Processes share this machine's cores, so the compute does not scale here; what is counted is what travels and how long
the meetings take.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from support.nursery import Nursery
from support.ranks import start_ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    print("| processes | step, s | exchange, s | boundary in the step, s | boundary alone, ms | MB summed | messages |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, Nursery("support.ranks") as nursery:
        for size in options.sizes:
            place = Path(folder) / str(size)
            arguments = (str(place), options.steps, str(options.encoder))
            children = start_ranks(nursery, "support.ranks:measured", *arguments, folder=place, size=size)
            codes = [child.wait(900) for child in children]
            assert not any(codes), children[codes.index(next(filter(None, codes)))].told
            found = json.loads((place / "found-0.json").read_text())
            print(
                f"| {size} | {found['seconds']:.2f} | {found['seconds_exchange']:.3f} "
                f"| {found['seconds_agreement']:.3f} | {1000 * found['seconds_lone_agreement']:.2f} "
                f"| {found['bytes'] / 1e6:.1f} | {found['messages']:.0f} |",
                flush=True,
            )
    print(f"{found['parameters']:,} parameters")


if __name__ == "__main__":
    main()
