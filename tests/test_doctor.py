"""What the diagnosis finds, and which command it advises."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import types
from pathlib import Path

import pytest

import pysemi
from pysemi import backends, doctor
from pysemi.config import JuliaConfig, write_julia
from pysemi.doctor import diagnose
from pysemi.errors import BackendUnavailableError

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def configured(fake_julia, julia_project):
    """Return a function that configures a Julia that behaves as told."""

    def put(**options):
        julia = JuliaConfig(fake_julia(**options), julia_project)
        write_julia(julia)
        return julia

    return put


def test_versions_are_those_installed():
    found = diagnose()
    import torch

    assert found.pysemi == pysemi.__version__
    assert found.python == platform.python_version()
    assert found.torch.version == torch.__version__
    assert found.torch.threads == torch.get_num_threads()
    for name in ("torchdiffeq", "numpy", "juliacall", "diffeqpy"):
        assert found.distributions[name] == importlib.metadata.version(name)
    assert found.torch.blas


def test_no_julia_is_no_problem():
    found = diagnose()
    assert found.ok
    assert found.remedy is None
    assert found.julia.found is None
    assert found.auto.name == "torch"
    json.dumps(found.as_dict())


def test_juliacall_and_diffeqpy_are_not_imported():
    import subprocess

    program = (
        "import sys\nfrom pysemi.doctor import diagnose\ndiagnose()\n"
        "print({'juliacall', 'diffeqpy'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.strip() == "set()", ended.stderr


def test_a_julia_that_works_is_no_problem(configured, fake_juliacall):
    fake_juliacall()
    julia = configured()
    found = diagnose()
    assert found.ok
    assert found.julia.found.julia == julia
    assert all(p.loads for p in found.julia.report.packages if p.required)
    assert found.as_dict()["julia"]["source"] == "configured"


def test_without_loading_it_is_only_looked_for(configured, fake_juliacall):
    fake_juliacall(start="raise RuntimeError('started')")
    configured()
    assert diagnose(load=False).ok
    assert not diagnose().ok


@pytest.mark.parametrize("options", [{"without": "OrdinaryDiffEqLowOrderRK"}, {"version": "1.9.0"}])
def test_another_julia_is_advised_where_this_one_will_not_do(configured, options):
    configured(**options)
    found = diagnose()
    assert not found.ok
    assert found.remedy == "pysemi julia use EXE --project DIR"
    assert len(found.problems) == 1


def test_where_a_package_fails_the_command_that_shows_why_is_advised(
    fake_julia, fake_juliacall, julia_project
):
    fake_juliacall(
        behaviour="if name == 'OrdinaryDiffEqLowOrderRK': "
        "record('failed', name=name, error='oh no'); return"
    )
    write_julia(JuliaConfig(fake_julia(), julia_project, Path("/a depot")))
    found = diagnose()
    assert found.problems == ("OrdinaryDiffEqLowOrderRK does not load: oh no",)
    assert found.remedy == (
        f"env 'JULIA_DEPOT_PATH=/a depot:' {fake_julia()} --project={julia_project} "
        "-e 'import OrdinaryDiffEqLowOrderRK'"
    )


def test_another_julia_is_advised_where_juliacall_does_not_start(configured, fake_juliacall):
    fake_juliacall(start="raise ImportError('no libjulia')")
    configured()
    assert diagnose().remedy == "pysemi julia use EXE --project DIR"


def test_more_time_is_advised_where_loading_takes_long(configured, fake_juliacall):
    fake_juliacall(behaviour="time.sleep(600)")
    configured()
    found = diagnose(load_seconds=2)
    assert found.remedy == "pysemi doctor --limit 1800"
    assert "within 2 s" in found.problems[0]


def test_more_time_still_is_advised_where_that_was_not_enough(configured, monkeypatch):
    configured()
    probe = doctor.probe

    def slow(julia, **_):
        import dataclasses

        return dataclasses.replace(probe(julia), problem="not in time", timed_out=True)

    monkeypatch.setattr(doctor, "probe", slow)
    assert diagnose(load_seconds=1800).remedy == "pysemi doctor --limit 7200"


def test_an_installation_is_advised_where_juliapkg_resolved_before_pysemi_came(
    fake_julia, tmp_path
):
    project = tmp_path / "juliapkg-project"
    (project / "pyjuliapkg").mkdir(parents=True)
    (project / "Project.toml").write_text("")
    record = {"executable": str(fake_julia(without="SciMLSensitivity"))}
    (project / "pyjuliapkg" / "meta.json").write_text(json.dumps(record))
    found = diagnose()
    assert found.julia.found.source == "juliapkg"
    assert found.remedy == "pysemi julia install"


def test_a_corrupt_configuration_is_one_problem_with_its_file_to_remove(isolated):
    isolated.mkdir()
    (isolated / "config.json").write_text("{")
    found = diagnose()
    assert len(found.problems) == 1
    assert found.remedy.startswith(f"rm {isolated / 'config.json'} && pysemi julia use")
    assert found.as_dict()["julia"] == {"source": None, "problem": found.problems[0]}


def test_settings_that_juliapkg_refuses_are_not_blamed_on_pysemi_s_file(isolated, monkeypatch):
    import juliapkg.state

    isolated.mkdir()
    (isolated / "config.json").write_text("{}")
    monkeypatch.delitem(juliapkg.state.STATE, "meta")
    found = diagnose()
    assert "juliapkg" in found.problems[0]
    assert found.remedy == "pysemi julia use EXE --project DIR"


def test_a_torch_that_cannot_be_imported_is_a_problem(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = diagnose()
    assert found.torch.version is None
    assert found.problems[0].startswith("torch cannot be imported: ModuleNotFoundError")
    assert found.remedy.endswith("-m pip install --force-reinstall torch")


def test_a_python_package_that_is_absent_is_a_problem(monkeypatch):
    version = importlib.metadata.version

    def without(name):
        if name == "diffeqpy":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = diagnose()
    assert found.distributions["diffeqpy"] is None
    assert found.problems == ("the Python package diffeqpy is not installed",)


def test_the_backend_is_the_one_that_auto_explains(monkeypatch):
    monkeypatch.setattr(backends, "explain_auto", lambda: ("julia", "because"))
    assert diagnose().as_dict()["auto"] == {"name": "julia", "reason": "because"}


def test_a_backend_that_cannot_be_told_is_a_problem(monkeypatch):
    def fail():
        raise BackendUnavailableError("nothing goes")

    monkeypatch.setattr(backends, "explain_auto", fail)
    found = diagnose()
    assert found.auto is None
    assert found.problems == ("nothing goes",)


def test_gpus_are_listed_as_torch_names_them(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU {i}")
    monkeypatch.setattr(torch, "version", types.SimpleNamespace(cuda="12.8", hip=None))
    report = diagnose().torch
    assert report.gpus == ("GPU 0", "GPU 1")
    assert report.build == "CUDA 12.8"


def test_a_configured_julia_that_is_gone_is_a_problem(julia_project):
    write_julia(JuliaConfig(Path("/gone/julia"), julia_project))
    found = diagnose()
    assert found.problems == ("/gone/julia cannot be run: No such file or directory",)
