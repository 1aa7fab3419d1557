"""The network and its parts."""

from spanwright.model.gliner import GLiNER, build

__all__ = ["GLiNER", "build"]
