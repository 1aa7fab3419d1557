"""Spanwright: fine-tune, evaluate and run GLiNER models.

The names below are the whole public surface; each is imported when first used, so that ``import spanwright`` costs
nothing and does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spanwright.config import DecodeOptions
from spanwright.entities import Entity, Example, Extraction, Relation, RelationGold, Span, SpanRelation, Word
from spanwright.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ModeError,
    SpanwrightError,
    TrainingError,
)
from spanwright.train_config import TrainConfig

if TYPE_CHECKING:
    from spanwright import modes as modes
    from spanwright.evaluation import evaluate as evaluate
    from spanwright.extractor import Extractor as Extractor
    from spanwright.training import train as train

__version__ = "0.1.0"

_LAZY = {
    "Extractor": "spanwright.extractor",
    "evaluate": "spanwright.evaluation",
    "train": "spanwright.training",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DecodeOptions",
    "Entity",
    "Example",
    "Extraction",
    "Extractor",
    "ModeError",
    "Relation",
    "RelationGold",
    "Span",
    "SpanRelation",
    "SpanwrightError",
    "TrainConfig",
    "TrainingError",
    "Word",
    "evaluate",
    "modes",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "modes":
        return importlib.import_module("spanwright.modes")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'spanwright' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
