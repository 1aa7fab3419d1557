"""Campaigns: the same code is killed, refused and damaged many times. Short here, whole by `make faults`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.nursery import Nursery
from support.saving import prepare


@pytest.fixture(scope="session")
def nursery():
    with Nursery("support.saving") as nursery:
        yield nursery


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a small model and data."""
    folder = tmp_path_factory.mktemp("place")
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def account():
    """Note what a campaign came to: a line of the report of `make faults`."""

    def note(campaign: str, **figures: object) -> None:
        if path := os.environ.get("SPANWRIGHT_FAULTS_REPORT"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"campaign": campaign, **figures}) + "\n")

    return note
