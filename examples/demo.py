"""The main job, start to end: a pretrained encoder becomes an entity recogniser for politics, on two CPU cores.

    make demo

trains on 200 annotated sentences (CrossNER politics), chooses the best package on the dev part, measures it on
sentences that it has never seen, and reads a new one.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from spanwright import Extractor, evaluate, train
from spanwright.cli.options import read_config
from spanwright.cli.progress import bar
from spanwright.cli.show import print_report
from spanwright.data.load import load_examples

HERE = Path(__file__).parent
DATA = HERE / "data" / "crossner_politics"
NEW_SENTENCE = (
    "In 2019 Ursula von der Leyen left the Christian Democratic Union's cabinet in Germany to lead the European "
    "Commission, and Justin Trudeau's Liberal Party won the Canadian federal election."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder of a pretrained encoder")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", action="append", default=[], help="as in `spanwright train`")
    options = parser.parse_args()
    started = time.perf_counter()

    shutil.rmtree(options.output, ignore_errors=True)  # its own folder, made anew by each demonstration
    result = train(
        options.encoder,
        DATA / "train.jsonl",
        DATA / "dev.jsonl",
        output=options.output,
        config=read_config(HERE / "demo.toml", options.set),
        show=True,
        tell=print,
    )
    minutes = (time.perf_counter() - started) / 60
    print(f"\nTrained for {result.num_steps} steps in {minutes:.1f} minutes; best step {result.best_step}.")

    extractor = Extractor.from_pretrained(options.output)  # reloaded, as anybody would load it
    held_out = load_examples(DATA / "test.jsonl").examples
    with bar("evaluating", len(held_out)) as advance:
        report = evaluate(extractor, held_out, progress=advance)
    print_report(report, title=f"{len(held_out)} held-out sentences")

    print(f"\n{NEW_SENTENCE}\n")
    for entity in extractor.extract(NEW_SENTENCE, list(report.per_label)):
        print(f"  {entity.score:.2f}  {entity.label:18} {entity.text}")
    print(f"\nPackage, learning-curve.png and metrics.jsonl: {options.output}")


if __name__ == "__main__":
    main()
