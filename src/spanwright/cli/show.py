"""What the verbs print."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from spanwright.checkpoint import Inspection
    from spanwright.evaluation import RelationReport, Report
    from spanwright.evaluation.zero_shot import ZeroShot


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_report(report: Report, *, title: str) -> None:
    """A report as a table: each label by its support, then micro and macro, then the kinds of error."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("label")
    for name in ("precision", "recall", "F1", "gold", "found"):
        table.add_column(name, justify="right")
    for label, counts in sorted(report.per_label.items(), key=lambda item: -item[1].num_gold):
        table.add_row(label, *_percents(counts.precision, counts.recall, counts.f1), *_counts(counts))
    table.add_section()
    micro = report.micro
    table.add_row("micro", *_percents(micro.precision, micro.recall, micro.f1), *_counts(micro), style="bold")
    table.add_row("macro", *_percents(report.macro_precision, report.macro_recall, report.macro_f1), "", "")
    console = Console()
    console.print(table)
    if report.relations is not None:
        _print_relations(console, report.relations)
    errors = report.errors
    kinds = [f"{getattr(errors, name):,} {name.replace('_', ' ')}" for name in errors.__dataclass_fields__]
    console.print("errors: " + ", ".join(kinds), highlight=False)


def _print_relations(console: Console, report: RelationReport) -> None:
    from rich.table import Table

    table = Table(title="relations", title_justify="left", header_style="bold")
    table.add_column("relation")
    for name in ("precision", "recall", "F1", "gold", "found"):
        table.add_column(name, justify="right")
    for label, counts in sorted(report.per_label.items(), key=lambda item: -item[1].num_gold):
        table.add_row(label, *_percents(counts.precision, counts.recall, counts.f1), *_counts(counts))
    table.add_section()
    for name, counts, style in (("micro", report.micro, "bold"), ("with both labels", report.strict, None)):
        table.add_row(name, *_percents(counts.precision, counts.recall, counts.f1), *_counts(counts), style=style)
    console.print(table)


def print_zero_shot(result: ZeroShot, *, title: str) -> None:
    """Each data set's figures with its interval, then the mean."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("data set")
    for name in ("sentences", "labels", "precision", "recall", "F1", "95 %"):
        table.add_column(name, justify="right")
    for each in result.results:
        micro = each.report.micro
        table.add_row(
            each.name,
            f"{each.report.num_examples:,}",
            str(len(each.labels)),
            *_percents(micro.precision, micro.recall, micro.f1),
            " to ".join(f"{100 * bound:.1f}" for bound in each.interval),
        )
    table.add_section()
    bounds = " to ".join(f"{100 * bound:.1f}" for bound in result.interval)
    table.add_row("mean", "", "", "", "", f"{result.mean_f1:.1%}", bounds, style="bold")
    Console().print(table)


def print_inspection(found: Inspection) -> None:
    """What a model is, as a page of names and values."""
    from rich.console import Console
    from rich.table import Table

    total = sum(found.parameters.values())
    rows = [
        ("architecture", found.architecture),
        ("encoder", found.encoder),
        *([("label encoder", found.label_encoder)] if found.label_encoder else []),
        ("parameters", f"{total:,}"),
        *((f"  {name}", f"{count:,}") for name, count in found.parameters.items()),
        ("stored as", ", ".join(f"{kind} ({count} tensors)" for kind, count in found.stored_as.items()) or "a pickle"),
        *((name, "any number" if limit is None else f"at most {limit:,}") for name, limit in found.limits.items()),
        *((f"{name} marker", marker) for name, marker in found.markers.items()),
        ("word splitter", found.word_splitter),
        ("subtoken pooling", found.subtoken_pooling),
        ("threshold", _told_thresholds(found.thresholds)),
        ("calibration", "yes: Extractor.probability" if found.calibration else "none"),
        *((f"{name} by itself", choice) for name, choice in found.choices.items()),
        ("licence", found.licence or "not stated"),
        ("model card", found.card or "none"),
    ]
    if found.unused:
        rows.append(("never used", f"{len(found.unused)} tensors: {', '.join(found.unused[:3])} ..."))
    table = Table(title=found.folder, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    files = Table(title="files", title_justify="left", header_style="bold")
    files.add_column("name")
    files.add_column("bytes", justify="right")
    files.add_column("sha256 (first 16)")
    for name, (size, digest) in found.files.items():
        files.add_row(name, f"{size:,}", digest[:16])
    console = Console()
    console.print(table, highlight=False)
    console.print(files, highlight=False)


def _told_thresholds(own: Mapping[str, float]) -> str:
    if not own:
        return "0.5 unless you say another"
    low, high = min(own.values()), max(own.values())
    return f"its own for {len(own)} kinds of labels ({low:g} to {high:g}), 0.5 for all others, unless you say another"


def _percents(*values: float) -> list[str]:
    return [f"{value:.1%}" for value in values]


def _counts(counts: Any) -> list[str]:
    return [f"{counts.num_gold:,}", f"{counts.num_predicted:,}"]
