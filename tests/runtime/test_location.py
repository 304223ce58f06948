"""Which Julia is used, and how the user's words become paths."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest

from pysemi.config import JuliaConfig, read_julia, write_julia
from pysemi.errors import ArgumentError, ConfigurationError
from pysemi.runtime.location import find_julia, resolve_julia, use_julia

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture
def resolved(tmp_path):
    """What juliapkg leaves behind after it has resolved."""
    project = tmp_path / "juliapkg-project"
    (project / "pyjuliapkg").mkdir(parents=True)
    (project / "Project.toml").write_text("")
    exe = tmp_path / "juliapkg-julia"
    exe.write_text("")
    (project / "pyjuliapkg" / "meta.json").write_text(json.dumps({"executable": str(exe)}))
    return JuliaConfig(exe, project)


def run_in_this_process(monkeypatch, **settings):
    juliacall = types.ModuleType("juliacall")
    juliacall.CONFIG = settings
    monkeypatch.setitem(sys.modules, "juliacall", juliacall)


def test_there_may_be_none():
    assert find_julia() is None


def test_the_user_s_choice_is_found():
    julia = JuliaConfig(Path("/j/julia"), Path("/p"), Path("/d"))
    write_julia(julia)
    found = find_julia()
    assert (found.julia, found.source) == (julia, "configured")


def test_juliapkg_s_julia_is_found(resolved):
    found = find_julia()
    assert (found.julia, found.source) == (resolved, "juliapkg")


def test_the_user_s_choice_comes_before_juliapkg_s(resolved):
    write_julia(JuliaConfig(Path("/j/julia"), Path("/p")))
    assert find_julia().source == "configured"


def test_a_julia_that_runs_already_comes_before_everything(resolved, monkeypatch):
    write_julia(JuliaConfig(Path("/j/julia"), Path("/p")))
    run_in_this_process(monkeypatch, inited=True, exepath="/r/julia", project="/r/p")
    found = find_julia()
    assert found.source == "running"
    assert found.julia == JuliaConfig(Path("/r/julia"), Path("/r/p"))


@pytest.mark.parametrize(
    "settings", [{}, {"inited": False, "exepath": "/r", "project": "/p"}, {"inited": True}]
)
def test_a_juliacall_that_runs_no_julia_does_not_count(monkeypatch, settings):
    run_in_this_process(monkeypatch, **settings)
    assert find_julia() is None


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", "null", '{"executable": 3}'])
def test_a_broken_record_of_juliapkg_s_counts_as_none(resolved, record):
    (resolved.project / "pyjuliapkg" / "meta.json").write_text(record)
    assert find_julia() is None


def test_a_julia_of_juliapkg_s_that_was_removed_counts_as_none(resolved):
    resolved.executable.unlink()
    assert find_julia() is None


def test_a_project_of_juliapkg_s_that_was_removed_counts_as_none(resolved):
    (resolved.project / "Project.toml").unlink()
    assert find_julia() is None


def test_settings_that_juliapkg_refuses_are_an_error(monkeypatch):
    import juliapkg.state

    monkeypatch.delitem(juliapkg.state.STATE, "meta")
    with pytest.raises(ConfigurationError, match="juliapkg"):
        find_julia()


def test_a_program_may_be_named_as_on_path(fake_julia, julia_project, monkeypatch):
    exe = fake_julia()
    monkeypatch.setenv("PATH", str(exe.parent), prepend=os.pathsep)
    assert resolve_julia("julia", str(julia_project)).executable == exe


def test_paths_may_be_relative(fake_julia, julia_project, tmp_path, monkeypatch):
    exe = fake_julia()
    monkeypatch.chdir(exe.parent)
    (tmp_path / "depot").mkdir()
    for name in ("./julia", "../fake/julia", "julia"):
        julia = resolve_julia(name, "../project", "../depot")
        assert julia == JuliaConfig(exe, julia_project, tmp_path / "depot")


def test_a_name_on_path_comes_before_a_file_here(fake_julia, julia_project, tmp_path, monkeypatch):
    on_path = fake_julia()
    here = tmp_path / "here"
    fake_julia(path=here / "julia")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert resolve_julia("julia", str(julia_project)).executable == on_path


def test_a_link_is_kept_as_a_link(fake_julia, julia_project, tmp_path):
    link = tmp_path / "bin" / "julia"
    link.parent.mkdir()
    link.symlink_to(fake_julia())
    assert resolve_julia(str(link), str(julia_project)).executable == link


def test_dots_after_a_linked_folder_are_not_folded_away(fake_julia, julia_project, tmp_path):
    exe = fake_julia(path=tmp_path / "deep" / "er" / "julia")
    (tmp_path / "deep" / "er" / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er" / "sub")
    julia = resolve_julia(f"{tmp_path}/link/../julia", str(julia_project))
    assert julia.executable.samefile(exe)


def test_a_tilde_is_the_home_folder(fake_julia, julia_project, tmp_path, monkeypatch):
    exe = fake_julia()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_julia("~/fake/julia", "~/project") == JuliaConfig(exe, julia_project)


@pytest.mark.parametrize(
    ("exe", "says"),
    [
        ("no-such-julia", "no program 'no-such-julia' on PATH"),
        ("./no-such-julia", "does not exist"),
        ("", "is not the name"),
        ("dangling", "broken link"),
        ("folder", r"is a folder; the program is usually .*folder/bin/julia"),
        ("plain", "not executable"),
    ],
)
def test_a_program_that_cannot_be_meant_is_refused(julia_project, tmp_path, monkeypatch, exe, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    exe = exe if exe in ("no-such-julia", "") else f"./{exe}"
    with pytest.raises(ArgumentError, match=says) as caught:
        resolve_julia(exe, str(julia_project))
    assert caught.value.argument == "EXE"


def test_a_folder_that_is_no_project_is_refused(fake_julia, tmp_path):
    exe = str(fake_julia())
    for folder, says in ((tmp_path, "Project.toml"), (tmp_path / "no", "does not exist")):
        with pytest.raises(ArgumentError, match=says) as caught:
            resolve_julia(exe, str(folder))
        assert caught.value.argument == "--project"


def test_a_depot_that_is_no_folder_is_refused(fake_julia, julia_project, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="--depot"):
        resolve_julia(str(fake_julia()), str(julia_project), str(tmp_path / "no"))
    monkeypatch.setenv("JULIA_DEPOT_PATH", str(tmp_path / "no"))
    with pytest.raises(ArgumentError, match="JULIA_DEPOT_PATH"):
        resolve_julia(str(fake_julia()), str(julia_project))


def test_the_depot_in_force_is_recorded_but_gives_way(
    fake_julia, julia_project, tmp_path, monkeypatch
):
    exe, project = str(fake_julia()), str(julia_project)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("JULIA_DEPOT_PATH", str(tmp_path / "one"))
    assert resolve_julia(exe, project).depot == tmp_path / "one"
    assert resolve_julia(exe, project, str(tmp_path / "two")).depot == tmp_path / "two"


def test_use_records_what_it_checked(fake_julia, julia_project):
    exe = fake_julia()
    julia, report = use_julia(str(exe), str(julia_project))
    assert report.usable
    assert read_julia() == julia == JuliaConfig(exe, julia_project)


def test_use_records_nothing_that_cannot_be_used(fake_julia, julia_project):
    exe = fake_julia(without="OrdinaryDiffEqLowOrderRK")
    with pytest.raises(
        ConfigurationError, match=r"OrdinaryDiffEqLowOrderRK is not in the project.*--no-check"
    ):
        use_julia(str(exe), str(julia_project))
    assert read_julia() is None


def test_use_without_a_check_asks_nothing(tmp_path, fake_julia, julia_project):
    exe = fake_julia(before="open(__file__ + '.ran', 'w')")
    julia, report = use_julia(str(exe), str(julia_project), check=False)
    assert report is None
    assert read_julia() == julia
    assert not Path(f"{exe}.ran").exists()
