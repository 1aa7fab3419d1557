"""Scores to spans: `candidates` above the threshold, of which `resolve` keeps what may stand together."""

from spanwright.decoding.candidates import candidates
from spanwright.decoding.resolve import resolve

__all__ = ["candidates", "resolve"]
