"""Every error that Spanwright raises on purpose.

    SpanwrightError
    ├── ConfigError      (ValueError)    an option, a key or an argument that cannot be meant
    ├── DataError        (ValueError)    a file, a line or a text that cannot be read as asked
    ├── CheckpointError  (OSError)       a model folder that is absent, damaged or of another kind
    │   └── StorageError                 a folder that cannot be written: full, over quota, read-only
    ├── ModeError        (RuntimeError)  a module in a mode that nobody declared
    └── TrainingError    (RuntimeError)  a training run that cannot go on

Messages follow one grammar: place: `name` must *rule*, but is *value*. *Remedy.*
The command line prints the message alone and exits with the class's `exit_code` (as in sysexits.h).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

_LISTED = 20  # names that an error shows


class SpanwrightError(Exception):
    """Base of all errors that Spanwright raises on purpose."""

    exit_code = 70


class ConfigError(SpanwrightError, ValueError):
    """An option, a key or an argument that cannot be meant."""

    exit_code = 2


class DataError(SpanwrightError, ValueError):
    """A file, a line or a text that cannot be read as asked."""

    exit_code = 65


class CheckpointError(SpanwrightError, OSError):
    """A model folder that is absent, damaged or of another kind."""

    exit_code = 66


class StorageError(CheckpointError):
    """A folder that cannot be written: the disk is full, a quota is reached, or it may not be written to."""

    exit_code = 74


class ModeError(SpanwrightError, RuntimeError):
    """A module in a mode that nobody declared, or scopes that contradict each other."""


class TrainingError(SpanwrightError, RuntimeError):
    """A training run that cannot go on."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The ending of an error about an unknown `name`: the nearest known one, or all of them, or the first of many."""
    names = sorted(filter(None, known))
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean `{close[0]}`?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"Known are: {', '.join(names[:_LISTED])}{more}."


def require(holds: bool, name: str, rule: str, value: object) -> None:
    """Raise the ConfigError "`name` must *rule*, but is *value*." unless `holds`."""
    if not holds:
        raise ConfigError(f"`{name}` must {rule}, but is {value!r}.")


def require_choice(name: str, value: object, choices: Any) -> None:
    """Raise a ConfigError unless `value` is one of the Literal `choices`."""
    allowed = get_args(choices)
    if value not in allowed:
        listed = ", ".join(repr(choice) for choice in allowed)
        close = difflib.get_close_matches(str(value), [str(choice) for choice in allowed], n=1)
        meant = f" Did you mean `{close[0]}`?" if close else ""
        raise ConfigError(f"`{name}` must be one of {listed}, but is {value!r}.{meant}")
