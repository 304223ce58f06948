"""What pysemi asks of Julia."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import juliapkg.deps
import pytest

import pysemi
from pysemi.runtime.requirements import (
    OPTIONAL_PACKAGES,
    julia_compat,
    required_packages,
    requirement_files,
    version_allowed,
)


def test_the_required_packages_are_pysemi_s_own_and_pythoncall():
    assert [package.name for package in required_packages()] == [
        "OrdinaryDiffEq",
        "SciMLSensitivity",
        "OrdinaryDiffEqLowOrderRK",
        "PythonCall",
    ]


def test_pythoncall_must_be_of_juliacall_s_version():
    pythoncall = required_packages()[-1]
    version = importlib.metadata.version("juliacall")
    assert version_allowed(version, pythoncall.compat)
    assert not version_allowed("0.9.1", pythoncall.compat)


def test_the_list_stands_where_juliapkg_looks_and_juliapkg_understands_it(monkeypatch):
    own = Path(pysemi.__file__).with_name("juliapkg.json")
    assert requirement_files()["pysemi"] == own
    monkeypatch.setattr(sys, "path", [str(own.parents[1])])
    assert str(own) in juliapkg.deps.deps_files()
    compat, packages = juliapkg.deps.find_requirements()
    assert juliapkg.deps.Version.parse("1.10.0") in compat
    assert {"OrdinaryDiffEq", "SciMLSensitivity", "OrdinaryDiffEqLowOrderRK"} <= {
        p.name for p in packages
    }


def test_diffeqpy_s_list_agrees_with_pysemi_s_about_ordinarydiffeq():
    import importlib.util

    spec = importlib.util.find_spec("diffeqpy")
    theirs = json.loads(Path(spec.origin).with_name("juliapkg.json").read_text())["packages"]
    ours = required_packages()[0]
    assert theirs["OrdinaryDiffEq"]["uuid"] == ours.uuid
    assert version_allowed("7.7.0", theirs["OrdinaryDiffEq"]["version"])
    assert version_allowed("7.7.0", ours.compat)


@pytest.mark.parametrize(
    ("version", "compat", "allowed"),
    [
        ("1.10.0", "1.10", True),
        ("1.9.4", "1.10", False),
        ("1.12.0-rc1", "1.10", True),
        ("1.13.0-DEV.77+3", "1.10", True),
        ("2.0.0", "1.10", False),
        ("7.99.9", "7.100", False),
        ("7.112.0", "7.100", True),
        ("8.0.0", "7", False),
        ("0.10.0", "0.9", False),
        ("3.0.0", None, True),
    ],
)
def test_versions_are_compared_as_julia_s_package_manager_does(version, compat, allowed):
    assert version_allowed(version, compat) is allowed


def test_julia_1_10_is_the_oldest():
    assert julia_compat() == "1.10"


def test_cuda_is_used_only_where_it_is():
    assert [package.name for package in OPTIONAL_PACKAGES] == ["CUDA"]
    assert "CUDA" not in {package.name for package in required_packages()}


def test_without_juliacall_its_requirements_are_absent(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert set(requirement_files()) == {"pysemi"}
    assert "PythonCall" not in {package.name for package in required_packages()}
