"""The variables a Julia is given."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pysemi.config import JuliaConfig
from pysemi.runtime.environment import juliacall_environment, named_depot, offline_environment

JULIA = JuliaConfig(Path("/j/julia"), Path("/p"))


def test_a_julia_is_kept_offline_and_to_this_python():
    assert offline_environment(JULIA) == {
        "JULIA_PKG_OFFLINE": "true",
        "JULIA_PKG_SERVER": "",
        "JULIA_CONDAPKG_BACKEND": "Null",
        "JULIA_PYTHONCALL_EXE": sys.executable,
    }


def test_a_depot_comes_before_julia_s_own():
    julia = JuliaConfig(Path("/j/julia"), Path("/p"), Path("/d"))
    assert offline_environment(julia)["JULIA_DEPOT_PATH"] == f"/d{os.pathsep}"


def test_juliacall_is_told_program_and_project():
    variables = juliacall_environment(JULIA)
    assert variables["PYTHON_JULIACALL_EXE"] == "/j/julia"
    assert variables["PYTHON_JULIACALL_PROJECT"] == "/p"
    assert variables.items() >= offline_environment(JULIA).items()


def test_a_depot_is_taken_from_the_environment_only_if_it_names_one(monkeypatch):
    monkeypatch.delenv("JULIA_DEPOT_PATH", raising=False)
    assert named_depot() is None
    for value, depot in (("", None), ("/a", "/a"), ("/a:", "/a"), (":", None), ("/a:/b", None)):
        monkeypatch.setenv("JULIA_DEPOT_PATH", value.replace(":", os.pathsep))
        assert named_depot() == depot
