"""A data folder and a cache of a test's own."""

from __future__ import annotations

import pytest

from pysemi.experiments.data import download


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """An empty folder as ``$PYSEMI_DATA_DIR``, and an empty cache."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("PYSEMI_DATA_DIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.0)
    return folder
