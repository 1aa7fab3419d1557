"""How right a model is."""

from spanwright.evaluation.measure import evaluate
from spanwright.evaluation.metrics import RelationReport, Report

__all__ = ["RelationReport", "Report", "evaluate"]
