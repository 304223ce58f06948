"""`pysemi julia`: use, forget, status and install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pysemi
from pysemi import kept
from pysemi.cli import main
from pysemi.config import JuliaConfig, read_julia, write_julia
from pysemi.errors import BackendUnavailableError
from pysemi.runtime import install as installation
from pysemi.runtime.probe import probe

pytestmark = pytest.mark.usefixtures("isolated")

OFFLINE_WAY = "pysemi julia use EXE --project DIR"


@pytest.fixture
def closed_network(monkeypatch):
    # Nothing listens on this port, whether or not this machine has a network.
    monkeypatch.setenv("JULIA_PKG_SERVER", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def installing(monkeypatch, fake_julia, julia_project):
    """Return a function that replaces the installation itself by a result or an error."""

    def put(error=None):
        def install_julia(project, *, on_line):
            on_line(f"installing into {project}")
            if error is not None:
                raise error
            julia = JuliaConfig(fake_julia(), julia_project)
            write_julia(julia)
            return julia, probe(julia)

        monkeypatch.setattr(installation, "install_julia", install_julia)

    return put


def test_use_records_and_says_what_is_used_from_now_on(fake_julia, julia_project, capsys):
    exe = fake_julia()
    assert main(["julia", "use", str(exe), "--project", str(julia_project)]) == 0
    assert read_julia() == JuliaConfig(exe, julia_project)
    assert capsys.readouterr().out == (
        f"pysemi now uses Julia 1.10.6 at {exe}, project {julia_project} "
        "(its packages were found)\n"
    )


def test_use_from_a_process_of_its_own_with_words_as_a_user_writes_them(
    fake_julia, julia_project, tmp_path
):
    exe = fake_julia()
    (tmp_path / "dépôt julia").mkdir()
    command = [sys.executable, "-m", "pysemi", "julia", "use", "julia"]
    ended = subprocess.run(
        [*command, "--project", "../project", "--depot", "../dépôt julia"],
        cwd=exe.parent,
        env={
            **os.environ,
            "PATH": f"{exe.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(pysemi.__file__).parents[1]),
        },
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert read_julia() == JuliaConfig(exe, julia_project, tmp_path / "dépôt julia")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"version": "1.9.4"}, "is Julia 1.9.4; pysemi needs 1.10"),
        ({"without": "SciMLSensitivity"}, "SciMLSensitivity is not in the project"),
        ({"before": "print('bonjour'); sys.exit()"}, "is not a Julia"),
        ({"before": "sys.exit('ERROR: bad')"}, "exited with code 1, and said 'bad'"),
    ],
)
def test_use_refuses_what_cannot_be_used_in_one_line(
    fake_julia, julia_project, capsys, options, says
):
    exe = fake_julia(**options)
    arguments = ["julia", "use", str(exe), "--project", str(julia_project)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("pysemi: error: ")
    assert error.count("\n") == 1
    assert says in error
    assert str(exe) in error or "SciML" in error
    assert read_julia() is None
    assert main([*arguments, "--no-check"]) == 0
    assert read_julia() == JuliaConfig(exe, julia_project)
    assert "not checked" in capsys.readouterr().out


def test_use_refuses_a_folder_without_a_project(fake_julia, tmp_path, capsys):
    assert main(["julia", "use", str(fake_julia()), "--project", str(tmp_path)]) == 2
    assert "holds no Project.toml" in capsys.readouterr().err


def test_a_refusal_keeps_the_earlier_choice(fake_julia, julia_project):
    old = JuliaConfig(Path("/old"), Path("/p"))
    write_julia(old)
    exe = fake_julia(version="1.6.0")
    assert main(["julia", "use", str(exe), "--project", str(julia_project)]) == 1
    assert read_julia() == old


def test_forget_may_be_repeated(fake_julia, julia_project, capsys):
    write_julia(JuliaConfig(Path("/old"), Path("/p")))
    assert main(["julia", "forget"]) == 0
    assert read_julia() is None
    assert main(["julia", "forget"]) == 0
    assert capsys.readouterr().out == "forgotten\nno Julia was configured\n"


def test_status_without_a_julia_names_the_way_to_one(capsys):
    assert main(["julia", "status"]) == 0
    assert OFFLINE_WAY in capsys.readouterr().out
    assert main(["julia", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"source": None}


def test_status_shows_the_julia_and_its_packages(fake_julia, julia_project, tmp_path, capsys):
    exe = fake_julia()
    depot = tmp_path / "depot"
    write_julia(JuliaConfig(exe, julia_project, depot))
    assert main(["julia", "status"]) == 0
    shown = capsys.readouterr().out
    for expected in ("1.10.6", str(exe), str(julia_project), str(depot), "7.7.0", "`pysemi julia"):
        assert expected in shown
    assert "CUDA" not in shown
    assert main(["julia", "status", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["source"] == "configured"
    assert answer["executable"] == str(exe)
    assert answer["usable"] is True
    assert answer["packages"][0] == {
        "name": "OrdinaryDiffEq",
        "required": True,
        "version": "7.7.0",
        "loads": None,
        "functional": None,
        "problem": None,
    }


def test_status_of_a_julia_that_cannot_be_used_ends_with_1(fake_julia, julia_project, capsys):
    write_julia(JuliaConfig(fake_julia(without="OrdinaryDiffEqLowOrderRK"), julia_project))
    assert main(["julia", "status"]) == 1
    shown = capsys.readouterr().out
    assert "missing" in shown
    assert "✗ OrdinaryDiffEqLowOrderRK is not in the project" in shown
    assert main(["julia", "status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["usable"] is False


def test_status_of_a_broken_configuration_names_the_file(isolated, capsys):
    isolated.mkdir()
    (isolated / "config.json").write_text("{")
    assert main(["julia", "status"]) == 1
    assert str(isolated / "config.json") in capsys.readouterr().err


def test_install_if_reachable_is_content_with_a_closed_network(closed_network, capsys):
    began = time.monotonic()
    assert main(["julia", "install", "--if-reachable"]) == 0
    assert time.monotonic() - began < 8
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    assert captured.out.startswith("no Julia installed: ")
    assert "cannot be reached" in captured.out
    assert "pysemi runs on its torch backend" in captured.out
    assert OFFLINE_WAY in captured.out
    assert read_julia() is None


def test_install_says_in_one_line_that_the_network_is_closed(closed_network, capsys):
    assert main(["julia", "install"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pysemi: error: no Julia installed: ")
    assert captured.err.count("\n") == 1
    assert OFFLINE_WAY in captured.err


def test_install_in_a_process_of_its_own_ends_although_a_look_up_hangs(closed_network):
    # The name of a host is looked up for ever; the process must end all the same.
    program = (
        "import socket, sys, time\n"
        "socket.getaddrinfo = lambda *_, **__: time.sleep(600)\n"
        "from pysemi.cli import main\n"
        "sys.exit(main(['julia', 'install', '--if-reachable']))\n"
    )
    environment = {**os.environ, "JULIA_PKG_SERVER": "http://pkg.example.invalid"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0
    assert "no answer within" in ended.stdout
    assert ended.stderr == ""


def test_install_does_nothing_where_a_julia_is_usable(
    fake_julia, julia_project, installing, capsys
):
    installing(error=AssertionError("installed"))
    exe = fake_julia()
    write_julia(JuliaConfig(exe, julia_project))
    for arguments in ([], ["--if-reachable"]):
        assert main(["julia", "install", *arguments]) == 0
        assert capsys.readouterr().out.startswith(f"nothing to do: Julia 1.10.6 at {exe}")


def test_install_goes_ahead_where_the_julia_is_unusable_or_force_is_given(
    fake_julia, julia_project, installing, capsys
):
    installing()
    write_julia(JuliaConfig(Path("/gone/julia"), julia_project))
    assert main(["julia", "install"]) == 0
    assert "pysemi now uses Julia 1.10.6" in capsys.readouterr().out
    assert main(["julia", "install", "--force", "--project", "/some/where"]) == 0
    captured = capsys.readouterr()
    assert "pysemi now uses Julia 1.10.6" in captured.out
    assert "installing into /some/where" in captured.err


def test_install_mentions_the_julia_that_cannot_be_used(closed_network, julia_project, capsys):
    write_julia(JuliaConfig(Path("/gone/julia"), julia_project))
    assert main(["julia", "install", "--if-reachable"]) == 0
    assert "/gone/julia cannot be run" in capsys.readouterr().out


def test_a_failure_after_the_network_was_reached_stops_nobody_with_if_reachable(installing, capsys):
    installing(error=BackendUnavailableError("the installation\nfailed: registry refused"))
    assert main(["julia", "install"]) == 1
    assert "registry refused" in capsys.readouterr().err
    assert main(["julia", "install", "--if-reachable"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert shown.startswith("no Julia installed: the installation failed: registry refused")


def test_ctrl_c_stops_an_installation_even_with_if_reachable(installing, capsys):
    installing(error=KeyboardInterrupt())
    assert main(["julia", "install", "--if-reachable"]) == 130


def test_a_bad_folder_is_a_bad_argument_even_with_if_reachable(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(installation, "why_unreachable", lambda sites: None)
    (tmp_path / "file").write_text("")
    arguments = ["--if-reachable", "--project", str(tmp_path / "file" / "x")]
    assert main(["julia", "install", *arguments]) == 2


@pytest.mark.julia
def test_a_real_julia_can_be_chosen(real_julia, capsys):
    arguments = ["julia", "use", str(real_julia.executable), "--project", str(real_julia.project)]
    if real_julia.depot is not None:
        arguments += ["--depot", str(real_julia.depot)]
    assert main(arguments) == 0
    assert main(["julia", "status"]) == 0
    assert read_julia() == real_julia


class TestCompilations:
    """What is said of compilations on disk, and how they go."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PYSEMI_COMPILATION_CACHE", "on")
        monkeypatch.setenv("PYSEMI_CACHE_DIR", str(tmp_path / "cache"))
        return tmp_path / "cache" / "compilations"

    def test_they_are_counted_and_cleared(self, cache, capsys):
        assert main(["julia", "compilations"]) == 0
        assert f"0 vector fields, 0.0 MB, in {cache}" in capsys.readouterr().out
        kept.write("one", "x" * 150_000)
        kept.write("other", "x" * 150_000)
        assert main(["julia", "compilations"]) == 0
        assert f"2 vector fields, 0.3 MB, in {cache}" in capsys.readouterr().out
        assert main(["julia", "compilations", "--clear"]) == 0
        assert capsys.readouterr().out.startswith("removed: 2 vector fields")
        assert not cache.exists()
        assert main(["julia", "compilations", "--clear"]) == 0  # nothing is there to be removed

    def test_they_can_be_switched_off(self, cache, monkeypatch, capsys):
        kept.write("one", "x")
        monkeypatch.setenv("PYSEMI_COMPILATION_CACHE", "off")
        assert main(["julia", "compilations", "--clear"]) == 0
        assert "PYSEMI_COMPILATION_CACHE" in capsys.readouterr().out
        assert cache.exists()

    def test_what_cannot_be_removed_is_an_error(self, cache, capsys):
        cache.parent.mkdir()
        cache.write_text("")
        assert main(["julia", "compilations", "--clear"]) != 0
        assert "remove it by hand" in capsys.readouterr().err

    def test_torch_is_not_imported_for_it(self, cache):
        code = "import sys; from pysemi.cli import main; main(['julia', 'compilations']); "
        code += "sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
