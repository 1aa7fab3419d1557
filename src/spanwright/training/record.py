"""What a run leaves to look at: a progress bar, `metrics.jsonl`, a learning curve."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from spanwright.checkpoint.files import refusals

METRICS_FILE = "metrics.jsonl"
CURVE_FILE = "learning-curve.png"


class Recorder:
    """Writes one line of `metrics.jsonl` for each step and evaluation, and shows the newest ones."""

    def __init__(self, output: Path, *, show: bool, writes: bool = True) -> None:
        self._path = output / METRICS_FILE
        self._writes = writes
        self._console = Console(stderr=True, quiet=not show)
        self._loss: float | None = None
        self._f1: float | None = None
        self._started = time.perf_counter()
        self._rows = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    @contextmanager
    def running(self, step: int, num_steps: int) -> Iterator[None]:
        """The time in which the bar is shown; `step` of `num_steps` were done before, and later lines go."""
        if self._writes:
            self._drop_lines_after(step)
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=False) as bar:
            self._bar, self._task = bar, bar.add_task("", total=num_steps, completed=step, told="")
            try:
                yield
            finally:
                self._bar = None

    def say(self, line: str) -> None:
        """A line for the user, above the bar."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def step(self, step: int, values: Mapping[str, float], num_rows: int) -> None:
        """One step's values."""
        self._rows += num_rows
        rate = self._rows / max(time.perf_counter() - self._started, 1e-9)
        loss = values["loss"]
        self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        self._write({"step": step, **values, "rows_per_second": round(rate, 2)})
        if self._bar is not None:
            best = f" · F1 {self._f1:.1%}" if self._f1 is not None else ""
            told = f"loss {self._loss:.2e}{best} · {rate:.0f} rows/s"
            self._bar.update(self._task, completed=step, told=told)

    def evaluation(self, step: int, values: Mapping[str, float], *, best: bool) -> None:
        """One evaluation's values."""
        self._f1 = values["f1"]
        self._write({"step": step, **values, "best": best})
        mark = "  best so far" if best else ""
        relations = f"relation F1 {values['relation_f1']:6.1%}   " if "relation_f1" in values else ""
        self.say(
            f"step {step:>6}   dev F1 {values['f1']:6.1%}   precision {values['precision']:6.1%}   "
            f"recall {values['recall']:6.1%}   {relations}dev loss {values['dev_loss']:.2e}{mark}"
        )

    def _write(self, values: Mapping[str, Any]) -> None:
        if not self._writes:
            return
        with refusals(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def _drop_lines_after(self, step: int) -> None:
        """Lines of steps that a resumed run will take again go, so that each step stands once."""
        if self._path.exists():
            kept = [line for line in read_metrics(self._path) if line["step"] <= step]
            written = self._path.with_name(f".{METRICS_FILE}")
            with refusals(self._path):
                written.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
                written.replace(self._path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; one that was cut short by a crash is passed over."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def draw_curve(output: Path) -> Path | None:
    """Draw loss and F1 over the steps of a run's `metrics.jsonl` into its folder; None if there is nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(output / METRICS_FILE) if (output / METRICS_FILE).exists() else []
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "f1" in line]
    if not steps:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.add_subplot()
    losses.plot([s["step"] for s in steps], [s["loss"] for s in steps], color="#b8c4d6", linewidth=1, label="loss")
    smooth = _smoothed([s["loss"] for s in steps])
    losses.plot([s["step"] for s in steps], smooth, color="#2b5797", linewidth=1.8, label="loss, smoothed")
    losses.set(xlabel="step", ylabel="loss per cell", yscale="log")
    if evaluations:
        at = [e["step"] for e in evaluations]
        losses.plot(at, [e["dev_loss"] for e in evaluations], color="#7a4b94", marker=".", label="dev loss")
        scores = losses.twinx()
        scores.plot(at, [100 * e["f1"] for e in evaluations], color="#c0504d", marker="o", markersize=4, label="dev F1")
        scores.set_ylabel("F1, %")
        scores.set_ylim(0, 100)
        best = [e for e in evaluations if e["best"]][-1]
        scores.annotate(
            f"{best['f1']:.1%} at step {best['step']}",
            (best["step"], 100 * best["f1"]),
            textcoords="offset points",
            xytext=(0, 9),
            ha="right",
            fontsize=9,
            color="#c0504d",
        )
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    with refusals(output / CURVE_FILE):
        figure.savefig(output / CURVE_FILE, dpi=120)
    return output / CURVE_FILE


def _smoothed(values: list[float]) -> list[float]:
    smooth: list[float] = []
    for value in values:
        smooth.append(0.9 * smooth[-1] + 0.1 * value if smooth else value)
    return smooth
