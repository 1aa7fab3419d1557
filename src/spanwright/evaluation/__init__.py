"""How right a model is."""

from spanwright.evaluation.measure import Answer, Asked, asked_of, evaluate, judge, predict
from spanwright.evaluation.metrics import RelationReport, Report

__all__ = ["Answer", "Asked", "RelationReport", "Report", "asked_of", "evaluate", "judge", "predict"]
