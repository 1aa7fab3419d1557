"""``python -m spanwright``."""

from spanwright.cli import main

main()
