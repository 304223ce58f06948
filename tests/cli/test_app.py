"""How the command ends: codes, one line of error, and no traceback but a bug's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import pysemi
from pysemi.cli import app as application
from pysemi.cli import main
from pysemi.config import JuliaConfig, write_julia
from pysemi.errors import ArgumentError, BackendUnavailableError, ConfigurationError

pytestmark = pytest.mark.usefixtures("isolated")


def run(*arguments, **options):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pysemi", *arguments], capture_output=True, text=True, **options
    )


@pytest.fixture
def command_that_raises(monkeypatch):
    """Return a function that makes `pysemi doctor` raise something."""

    def put(error):
        def doctor(**_):
            raise error

        import pysemi.doctor

        monkeypatch.setattr(pysemi.doctor, "diagnose", doctor)

    return put


def test_the_version_is_shown(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pysemi {pysemi.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["julia"], ["julia", "use", "-h"]])
def test_help_is_no_error(capsys, arguments):
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "Usage: pysemi" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-command"], "No such command 'no-such-command'"),
        (["--no-such-option"], "--no-such-option"),
        (["doctor", "extra"], "unexpected extra argument"),
        (["doctor", "--limit", "soon"], "--limit"),
        (["doctor", "--limit", "0"], "--limit"),
        (["julia", "use"], "Missing"),
        (["julia", "use", "julia"], "--project"),
        (["julia", "use", "julia", "--project"], "requires an argument"),
        (["julia", "no-such-command"], "No such command"),
        (["julia", "use", "/no/such/julia", "--project", "."], "/no/such/julia does not exist"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line_and_code_2(capsys, arguments, says):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pysemi: error: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ArgumentError("method", "no such thing"), 2),
        (ConfigurationError("line one\nline two"), 1),
        (BackendUnavailableError("not here"), 1),
    ],
)
def test_an_error_of_pysemi_s_is_one_line(capsys, command_that_raises, error, code):
    command_that_raises(error)
    assert main(["doctor"]) == code
    assert capsys.readouterr().err == f"pysemi: error: {' '.join(str(error).split())}\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_ctrl_c_is_one_line_and_code_130(capsys, command_that_raises, error):
    command_that_raises(error)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "pysemi: stopped\n"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), AssertionError("a bug"), OSError(5)])
def test_a_bug_keeps_its_traceback(command_that_raises, error):
    command_that_raises(error)
    with pytest.raises(type(error)):
        main(["doctor"])


def test_the_module_is_the_command():
    ended = run("--version")
    assert (ended.returncode, ended.stdout) == (0, f"pysemi {pysemi.__version__}\n")
    ended = run("nonsense")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "pysemi: error: No such command 'nonsense'.\n"


def test_the_process_s_own_arguments_are_the_default(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pysemi", "--version"])
    assert main() == 0
    assert "pysemi" in capsys.readouterr().out


def test_the_command_imports_nothing_heavy_of_its_own():
    program = (
        "import sys, pysemi\n"
        "before = set(sys.modules)\n"
        "from pysemi.cli import main\n"
        "main(['--version'])\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(new & {'torch', 'torchdiffeq', 'juliacall', 'juliapkg', 'diffeqpy', 'numpy'})\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "set()", ended.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 141),
        (["julia", "status"], 141),
        (["julia", "status", "--json"], 141),
        (["--help"], 1),  # rich prints the help, and ends the process itself
    ],
)
def test_a_reader_that_went_away_is_no_traceback(arguments, code):
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pysemi", *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (code, "")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_traceback(closed):
    ended = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -m pysemi julia status {closed}'],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr


def test_an_output_that_cannot_show_a_letter_shows_its_number():
    write_julia(JuliaConfig(Path("/jβl/j"), Path("/p")))
    ended = run(
        "julia",
        "status",
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        encoding="latin-1",
    )
    assert ended.returncode == 1
    assert r"/j\u03b2l/j" in ended.stdout
    assert ended.stderr == ""


def test_without_a_home_folder_the_command_works(isolated):
    gone = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "PYSEMI_CONFIG_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in gone}
    ended = run("julia", "status", env=environment)
    assert ended.returncode in (0, 1)
    assert "Traceback" not in ended.stderr


def test_the_parser_s_error_is_found_whatever_typer_builds_on():
    assert issubclass(typer.BadParameter, application._UsageError)
    assert application._UsageError is not Exception
