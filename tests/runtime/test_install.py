"""An installation: the real juliapkg, with a Julia that only pretends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import juliapkg.state
import pytest

from pysemi.config import JuliaConfig, read_julia, write_julia
from pysemi.errors import ArgumentError, BackendUnavailableError, ConfigurationError
from pysemi.runtime import install
from pysemi.runtime.install import install_julia

pytestmark = pytest.mark.usefixtures("isolated")

OLD = JuliaConfig(Path("/old/julia"), Path("/old/project"))


@pytest.fixture
def package_server(monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"/registry/23338594-aafe-5451-b93e-139f81909106/0000\n")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("JULIA_PKG_SERVER", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def julia_on_path(fake_julia, fake_juliacall, package_server, monkeypatch):
    """Return a function that puts a Julia that pretends to install on PATH."""

    def put(*, start="", behaviour="pass", **options):
        exe = fake_julia(**options)
        monkeypatch.setenv("PATH", f"{exe.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
        fake_juliacall(start, behaviour)
        return exe

    return put


def test_an_installation_is_recorded_as_use_would_record_it(julia_on_path, tmp_path):
    exe = julia_on_path()
    lines = []
    julia, report = install_julia(on_line=lines.append)
    assert report.usable
    assert all(package.loads for package in report.packages if package.required)
    assert read_julia() == julia == JuliaConfig(exe, tmp_path / "data" / "pysemi" / "julia")
    assert any("Installing packages" in line for line in lines)
    assert not any("pysemi-installed" in line for line in lines)


def test_only_what_pysemi_loads_is_installed(julia_on_path):
    exe = julia_on_path()
    julia, _ = install_julia(on_line=print)
    project = (julia.project / "Project.toml").read_text()
    assert set(re.findall(r'^(\w+) = "[0-9a-f-]{36}"', project, re.MULTILINE)) == {
        "OrdinaryDiffEq",
        "SciMLSensitivity",
        "OrdinaryDiffEqLowOrderRK",
        "PythonCall",
        "OpenSSL_jll",
    }
    scripts = Path(f"{exe}.scripts").read_text()
    assert "Pkg.add" in scripts
    assert "SciMLSensitivity" in scripts
    for other in ("ModelingToolkit", "Sundials", "StochasticDiffEq"):
        assert other not in scripts + project


def test_juliapkg_s_own_state_is_left_alone(julia_on_path):
    julia_on_path()
    before = dict(juliapkg.state.STATE)
    install_julia(on_line=print)
    assert before == juliapkg.state.STATE
    assert not Path(before["project"]).exists()


def test_the_project_may_be_elsewhere_and_have_content(julia_on_path, tmp_path):
    julia_on_path()
    project = tmp_path / "my jülia project"
    project.mkdir()
    (project / "Project.toml").write_text('[deps]\nCUDA = "052768ef-5323-5732-b1bb-66c8b64840ba"\n')
    julia, _ = install_julia(str(project), on_line=print)
    assert julia.project == project
    content = (project / "Project.toml").read_text()
    assert "CUDA" in content
    assert "SciMLSensitivity" in content


def test_the_depot_installed_into_is_recorded(julia_on_path, tmp_path, monkeypatch):
    julia_on_path()
    monkeypatch.setenv("JULIA_DEPOT_PATH", str(tmp_path / "depot"))
    julia, _ = install_julia(on_line=print)
    assert read_julia().depot == julia.depot == tmp_path / "depot"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"script": "if 'Pkg.add' in script: sys.exit('ERROR: registry refused')"},
            "'registry refused'",
        ),
        ({"without": "OrdinaryDiffEqLowOrderRK"}, "OrdinaryDiffEqLowOrderRK is not in the project"),
        ({"start": "raise ImportError('no libjulia')"}, "no libjulia"),
        ({"behaviour": "record('failed', name=name, error='x'); return"}, "does not load: x"),
    ],
)
def test_a_failure_half_way_changes_neither_configuration_nor_project(
    julia_on_path, tmp_path, options, says
):
    julia_on_path(**options)
    write_julia(OLD)
    project = tmp_path / "p"
    project.mkdir()
    (project / "Project.toml").write_text("# mine\n")
    with pytest.raises(BackendUnavailableError, match=says):
        install_julia(str(project), on_line=print)
    assert read_julia() == OLD
    assert (project / "Project.toml").read_text() == "# mine\n"


def test_a_julia_that_the_user_told_juliapkg_to_use_must_do_too(julia_on_path, monkeypatch):
    monkeypatch.setenv("PYTHON_JULIAPKG_EXE", str(julia_on_path(version="1.9.4")))
    with pytest.raises(BackendUnavailableError, match=r"is Julia 1\.9\.4; pysemi needs 1\.10"):
        install_julia(on_line=print)
    assert read_julia() is None


def test_ctrl_c_half_way_changes_neither_configuration_nor_project(julia_on_path, tmp_path):
    julia_on_path()
    write_julia(OLD)

    def stop(line):
        if "Installing packages" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install_julia(on_line=stop)
    assert read_julia() == OLD
    assert not (tmp_path / "data" / "pysemi" / "julia" / "Project.toml").exists()


def test_a_python_killed_half_way_leaves_the_configuration(julia_on_path, tmp_path):
    julia_on_path(script="if 'Pkg.add' in script: os.kill(os.getppid(), 9)")
    write_julia(OLD)
    with pytest.raises(BackendUnavailableError, match=r"crashed \(SIGKILL\)"):
        install_julia(on_line=print)
    assert read_julia() == OLD


def test_where_nothing_could_be_recorded_nothing_is_installed(julia_on_path, isolated):
    exe = julia_on_path()
    isolated.write_text("a file, where the folder should be")
    with pytest.raises(ConfigurationError):
        install_julia(on_line=print)
    assert not Path(f"{exe}.scripts").exists()


def test_a_project_that_cannot_be_made_is_a_bad_argument(julia_on_path, tmp_path):
    julia_on_path()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="--project"):
        install_julia(str(tmp_path / "file" / "p"), on_line=print)


def test_a_data_folder_that_cannot_be_made_is_no_argument_s_fault(
    julia_on_path, tmp_path, monkeypatch
):
    julia_on_path()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match="--project DIR"):
        install_julia(on_line=print)


@pytest.mark.parametrize(
    ("variable", "value"), [("PYTHON_JULIAPKG_OFFLINE", "yes"), ("JULIA_PKG_OFFLINE", "true")]
)
def test_a_user_who_asked_to_be_offline_is_offline(julia_on_path, monkeypatch, variable, value):
    exe = julia_on_path()
    monkeypatch.setenv(variable, value)
    with pytest.raises(BackendUnavailableError, match=variable):
        install_julia(on_line=print)
    assert not Path(f"{exe}.scripts").exists()


@pytest.mark.parametrize(
    ("server", "julia", "asked"),
    [
        (
            None,
            False,
            [
                "https://julialang-s3.julialang.org/bin/versions.json",
                "https://pkg.julialang.org/registries",
            ],
        ),
        (None, True, ["https://pkg.julialang.org/registries"]),
        ("mirror.example", True, ["https://mirror.example/registries"]),
        ("http://mirror.example/", True, ["http://mirror.example/registries"]),
        ("", True, ["https://github.com/JuliaRegistries/General"]),
    ],
)
def test_the_sites_that_will_be_needed_are_asked(monkeypatch, server, julia, asked):
    seen = []

    def closed(sites):
        seen.extend(site.url for site in sites)
        return "closed"

    monkeypatch.setattr(install, "why_unreachable", closed)
    if server is not None:
        monkeypatch.setenv("JULIA_PKG_SERVER", server)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/julia" if julia else None)
    with pytest.raises(BackendUnavailableError, match="closed"):
        install_julia(on_line=print)
    assert seen == asked


def test_the_program_of_the_second_python_keeps_only_what_holds_no_requirements(tmp_path):
    stub = tmp_path / "stub" / "juliapkg"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text(
        "import sys\n"
        "def resolve(force): assert force\n"
        "def executable(): return sys.path\n"
        "def project(): return [f for f in sys.path if '__editable__' in f]\n"
    )
    other = tmp_path / "other" / "diffeqpy"
    other.mkdir(parents=True)
    (other / "juliapkg.json").write_text("{}")
    plain = tmp_path / "plain"
    plain.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (stub.parent, other.parent, plain))),
    }
    ended = subprocess.run(
        [sys.executable, "-c", install._INSTALL_PROGRAM, "/requirements"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        cwd=other.parent,
    )
    path, _ = json.loads(ended.stdout.strip().removeprefix("pysemi-installed "))
    assert path[0] == "/requirements"
    assert str(plain) in path
    assert str(other.parent) not in path
    assert "" not in path
