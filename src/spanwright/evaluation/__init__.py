"""How right a model is."""

from spanwright.evaluation.measure import evaluate, judge, predict
from spanwright.evaluation.metrics import Report

__all__ = ["Report", "evaluate", "judge", "predict"]
