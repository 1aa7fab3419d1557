"""Scores to spans: `candidates` above the threshold, of which `resolve` keeps what may stand together."""

from spanwright.decoding.candidates import candidates, named
from spanwright.decoding.resolve import resolve
from spanwright.decoding.selection import Selection

__all__ = ["Selection", "candidates", "named", "resolve"]
