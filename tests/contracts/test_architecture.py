"""What holds for the source as a whole."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import spanwright

SOURCE = Path(spanwright.__file__).parent
WRITES = {"train", "eval", "no_grad", "inference_mode", "set_grad_enabled", "enable_grad"}


def test_only_the_modes_package_writes_modes():
    offenders = []
    for path in SOURCE.rglob("*.py"):
        if path.parent.name == "modes":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES
            assigned = isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Attribute) and target.attr == "training" for target in node.targets
            )
            if called or assigned:
                offenders.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert offenders == []


def test_every_public_name_exists():
    for name in spanwright.__all__:
        assert getattr(spanwright, name) is not None
    assert dir(spanwright) == spanwright.__all__


def test_importing_spanwright_does_not_load_torch():
    code = "import spanwright, spanwright.cli, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_costs_little_more_than_the_library_that_prints_it():
    """A fifth of a second where it was measured; a bound in seconds would be one on the machine."""

    def seconds(*arguments: str) -> float:
        """Of computing: the clock on the wall also counts what else the machine does while tests run."""
        before = os.times()
        subprocess.run([sys.executable, *arguments, "--help"], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    bare = "import typer\ndef command(): pass\ntyper.run(command)"
    assert min(seconds("-m", "spanwright") for _ in range(5)) < 3 * min(seconds("-c", bare) for _ in range(5))


def test_gliner_is_never_imported():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not any(name.split(".")[0] in ("gliner", "gliner2") for name in names), path
