"""What the verbs print."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spanwright.evaluation import Report


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
    errors = report.errors
    kinds = [f"{getattr(errors, name):,} {name.replace('_', ' ')}" for name in errors.__dataclass_fields__]
    console.print("errors: " + ", ".join(kinds), highlight=False)


def _percents(*values: float) -> list[str]:
    return [f"{value:.1%}" for value in values]


def _counts(counts: Any) -> list[str]:
    return [f"{counts.num_gold:,}", f"{counts.num_predicted:,}"]
