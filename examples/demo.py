"""The main job, start to end: the model in the package learns a data set from 200 sentences, on two CPU cores.

    make demo

measures what it finds without training (zero-shot), fine-tunes it on CrossNER politics, measures it again on sentences
that it has never seen, shows what it forgot of two other data sets, and reads a new sentence.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from spanwright import Extractor, SpanwrightError, train
from spanwright.cli.options import read_config
from spanwright.cli.progress import bar
from spanwright.cli.show import print_report
from spanwright.evaluation.zero_shot import ZeroShot, read_sets, zero_shot

HERE = Path(__file__).parent
DATA = HERE / "data"
LEARNT = "crossner_politics"
NEW_SENTENCE = (
    "In 2019 Ursula von der Leyen left the Christian Democratic Union's cabinet in Germany to lead the European "
    "Commission, and Justin Trudeau's Liberal Party won the Canadian federal election."
)


def measure(extractor: Extractor, what: str) -> ZeroShot:
    """F1 on each of the three sets, at 0.5."""
    sets = read_sets(DATA)
    with bar(what, sum(len(each.examples) for each in sets)) as advance:
        return zero_shot(extractor, sets, progress=advance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="a GLiNER: a folder or a name")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", action="append", default=[], help="as in `spanwright train`")
    options = parser.parse_args()

    before = measure(Extractor.from_pretrained(options.model), "before training")
    shutil.rmtree(options.output, ignore_errors=True)  # its own folder, made anew by each demonstration
    started = time.perf_counter()
    result = train(
        options.model,
        DATA / LEARNT / "train.jsonl",
        DATA / LEARNT / "dev.jsonl",
        output=options.output,
        config=read_config(HERE / "demo.toml", options.set),
        show=True,
        tell=print,
    )
    minutes = (time.perf_counter() - started) / 60
    print(f"\nTrained for {result.num_steps} steps in {minutes:.1f} minutes; best step {result.best_step}.\n")

    extractor = Extractor.from_pretrained(options.output)  # reloaded, as anybody would load it
    after = measure(extractor, "after training")
    learnt = next(each for each in after.results if each.name == LEARNT)
    print_report(learnt.report, title=f"{LEARNT}, 250 held-out sentences, after training")

    print(f"\n{'micro F1 at threshold 0.5':28}{'before':>8}{'after':>8}")
    for old, new in zip(before.results, after.results, strict=True):
        what = "learnt" if new.name == LEARNT else "not trained on"
        print(f"{new.name:28}{100 * old.report.micro.f1:8.1f}{100 * new.report.micro.f1:8.1f}  {what}")

    print(f"\n{NEW_SENTENCE}\n")
    for entity in extractor.extract(NEW_SENTENCE, learnt.labels):
        print(f"  {entity.score:.2f}  {entity.label:18} {entity.text}")
    print(f"\nPackage, learning-curve.png and metrics.jsonl: {options.output}")


if __name__ == "__main__":
    try:
        main()
    except SpanwrightError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
