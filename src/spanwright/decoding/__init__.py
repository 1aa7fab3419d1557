"""Scores to spans: `candidates` above the threshold, of which `resolve` keeps what may stand together.

Likewise `relation_candidates`, of which `between` keeps those whose entities were kept.
"""

from spanwright.decoding.candidates import candidates, named
from spanwright.decoding.relations import between, relation_candidates
from spanwright.decoding.resolve import resolve
from spanwright.decoding.selection import Selection

__all__ = ["Selection", "between", "candidates", "named", "relation_candidates", "resolve"]
