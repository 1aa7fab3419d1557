"""Live against gliner 0.2.29: the same folder loaded by both."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("gliner")


@pytest.fixture(autouse=True)
def quiet_peer():
    """The peer warns on its own; its warnings are no concern of these tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def load_peer():
    def load(folder):
        from gliner import GLiNER

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GLiNER.from_pretrained(str(folder), local_files_only=True)

    return load
