"""Text to words, long texts to windows."""

from spanwright.text.windows import Window, plan_windows
from spanwright.text.words import Split, splitter

__all__ = ["Split", "Window", "plan_windows", "splitter"]
