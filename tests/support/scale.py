"""How long the campaigns are: short in `make test`, whole by `make faults`."""

from __future__ import annotations

import os

FULL = bool(os.environ.get("SPANWRIGHT_FAULTS_FULL"))


def times(short: int, full: int) -> int:
    """`short`, or `full` in the whole campaign."""
    return full if FULL else short
