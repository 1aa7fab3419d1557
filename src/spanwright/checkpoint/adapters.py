"""Adapters that peft has put into a model's transformers."""

from __future__ import annotations

import copy

from torch import nn

from spanwright.model import GLiNER


def without_adapters(model: GLiNER) -> GLiNER:
    """`model` itself, or, where its transformers carry adapters, a copy in which they are merged into the weights."""
    if not any(_is_adapted(backbone.transformer) for backbone in _backbones(model)):
        return model
    merged = copy.deepcopy(model)
    for backbone in _backbones(merged):
        if _is_adapted(backbone.transformer):
            backbone.transformer = backbone.transformer.merge_and_unload()  # type: ignore[operator, union-attr]
    return merged


def _backbones(model: GLiNER) -> list[nn.Module]:
    return [part for part in (model.backbone, model.label_encoder) if part is not None]


def _is_adapted(transformer: object) -> bool:
    return hasattr(transformer, "merge_and_unload")
