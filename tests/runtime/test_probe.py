"""What a Julia answers, and every way in which a program is not a usable one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pysemi.config import JuliaConfig
from pysemi.runtime.probe import probe
from pysemi.runtime.requirements import required_packages

pytestmark = pytest.mark.usefixtures("isolated")

ORDINARY = required_packages()[0]


def package(report, name):
    return next(package for package in report.packages if package.name == name)


def test_a_usable_julia_is_reported_with_its_packages(fake_julia, julia_project):
    report = probe(JuliaConfig(fake_julia(), julia_project))
    assert report.usable
    assert report.problem is None
    assert (report.version, report.threads, report.blas_threads) == ("1.10.6", 3, 2)
    assert report.blas == "LBTConfig([ILP64] libopenblas64_.so)"
    assert [(p.name, p.version is not None, p.loads) for p in report.packages] == [
        ("OrdinaryDiffEq", True, None),
        ("SciMLSensitivity", True, None),
        ("OrdinaryDiffEqLowOrderRK", True, None),
        ("PythonCall", True, None),
        ("CUDA", False, None),
    ]
    json.dumps(report.as_dict())


def test_julia_is_started_offline_with_the_project_and_the_depot(
    fake_julia, julia_project, tmp_path
):
    log = tmp_path / "log.json"
    exe = fake_julia(
        before=f"import json; json.dump([sys.argv[1:], dict(os.environ)], open({str(log)!r}, 'w'))"
    )
    depot = tmp_path / "a depot"
    probe(JuliaConfig(exe, julia_project, depot))
    arguments, environment = json.loads(log.read_text())
    assert arguments[:2] == ["--startup-file=no", f"--project={julia_project}"]
    assert environment["JULIA_PKG_OFFLINE"] == "true"
    assert environment["JULIA_PKG_SERVER"] == ""
    assert environment["JULIA_DEPOT_PATH"] == f"{depot}{os.pathsep}"


def test_other_output_around_the_answer_is_passed_over(fake_julia, julia_project):
    noise = "print('[ Info: hello\\npysemi-probe broken', end=''); print('w', file=sys.stderr)"
    bad = "print('\\npysemi-probe julia version=zz .\\npysemi-probe package name=4e4e', end='')"
    exe = fake_julia(before=noise, during=bad, after=noise)
    report = probe(JuliaConfig(exe, julia_project))
    assert report.usable
    assert report.version == "1.10.6"


def test_a_record_that_was_cut_off_is_passed_over(fake_julia, julia_project):
    exe = fake_julia(during="print('\\npysemi-probe julia version=312e3900', end='')")
    assert probe(JuliaConfig(exe, julia_project)).version == "1.10.6"


def test_paths_may_hold_spaces_and_any_letters(fake_julia, tmp_path):
    project = tmp_path / "ein Pröjekt [β] 'x' \"y\""
    project.mkdir()
    (project / "JuliaProject.toml").write_text("")
    exe = fake_julia(path=tmp_path / "jü lia" / "bin dir" / "julia 1.10")
    assert probe(JuliaConfig(exe, project)).usable


@pytest.mark.parametrize("version", ["1.9.4", "1.6.7", "0.6.4", "2.0.0"])
def test_a_julia_of_another_age_is_refused_by_its_version(fake_julia, julia_project, version):
    report = probe(JuliaConfig(fake_julia(version=version), julia_project))
    assert not report.usable
    assert f"is Julia {version}; pysemi needs 1.10" in report.problem


def test_a_julia_that_is_too_old_for_the_script_is_refused_by_its_version(
    fake_julia, julia_project
):
    exe = fake_julia(version="1.4.2", during="sys.exit('ERROR: UndefVarError')")
    assert "is Julia 1.4.2" in probe(JuliaConfig(exe, julia_project)).problem


@pytest.mark.parametrize("version", ["1.10.0", "1.11.7", "1.12.0-rc2", "1.13.0-DEV.1+5"])
def test_newer_julias_are_accepted(fake_julia, julia_project, version):
    report = probe(JuliaConfig(fake_julia(version=version), julia_project))
    assert report.usable
    assert report.version == version


def test_a_program_that_is_no_julia_is_quoted(tmp_path, julia_project):
    exe = tmp_path / "notjulia"
    exe.write_text("#!/bin/sh\necho 'hello there'\n")
    exe.chmod(0o755)
    report = probe(JuliaConfig(exe, julia_project))
    assert f"{exe} is not a Julia: it ran, and said 'hello there'" in report.problem


def test_binary_garbage_becomes_one_short_line(tmp_path, julia_project):
    exe = tmp_path / "garbage"
    exe.write_text("#!/bin/sh\nhead -c 300000 /dev/urandom\n")
    exe.chmod(0o755)
    problem = probe(JuliaConfig(exe, julia_project)).problem
    assert "is not a Julia" in problem
    assert len(problem) < len(str(exe)) + 300
    assert problem.isprintable()


def test_an_answer_with_a_version_that_is_none_is_refused(fake_julia, julia_project):
    exe = fake_julia(version="one dot ten")
    assert "gave 'one dot ten' as its version" in probe(JuliaConfig(exe, julia_project)).problem


def test_a_program_that_fails_is_reported_with_its_code_and_its_error(tmp_path, julia_project):
    exe = tmp_path / "failing"
    exe.write_text(
        "#!/bin/sh\necho 'ERROR: could not load library' >&2\n"
        "echo 'Stacktrace:' >&2; echo ' [1] top-level' >&2; exit 7\n"
    )
    exe.chmod(0o755)
    problem = probe(JuliaConfig(exe, julia_project)).problem
    assert "exited with code 7" in problem
    assert "'could not load library'" in problem


def test_a_program_that_crashes_is_reported_with_the_signal(tmp_path, julia_project):
    exe = tmp_path / "crashing"
    exe.write_text("#!/bin/sh\nkill -SEGV $$\n")
    exe.chmod(0o755)
    assert "crashed (SIGSEGV)" in probe(JuliaConfig(exe, julia_project)).problem


def test_a_program_that_hangs_is_given_up(tmp_path, julia_project):
    exe = tmp_path / "hanging"
    exe.write_text("#!/bin/sh\nsleep 600\n")
    exe.chmod(0o755)
    began = time.monotonic()
    report = probe(JuliaConfig(exe, julia_project), find_seconds=1)
    assert time.monotonic() - began < 10
    assert report.problem == f"{exe} gave no answer within 1 s"
    assert report.timed_out


def test_a_julia_that_hangs_while_looking_for_packages_keeps_its_version(fake_julia, julia_project):
    exe = fake_julia(during="time.sleep(600)")
    report = probe(JuliaConfig(exe, julia_project), find_seconds=2)
    assert report.version == "1.10.6"
    assert "did not finish looking for packages" in report.problem


def test_a_project_that_julia_cannot_read_is_reported(fake_julia, julia_project):
    exe = fake_julia(during="sys.exit('ERROR: TOML Parser error: line 3')")
    problem = probe(JuliaConfig(exe, julia_project)).problem
    assert "TOML Parser error: line 3" in problem
    assert str(julia_project) in problem


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Permission denied"),
        (lambda path: path.write_text("#!/bin/sh\n"), "Permission denied"),
        (lambda path: (path.write_text("text"), path.chmod(0o755)), "Exec format error"),
        (lambda path: (path.write_text("#!/no/sh\n"), path.chmod(0o755)), "No such file"),
    ],
)
def test_a_program_that_cannot_be_run_is_reported(tmp_path, julia_project, make, says):
    exe = tmp_path / "exe"
    make(exe)
    problem = probe(JuliaConfig(exe, julia_project)).problem
    assert f"{exe} cannot be run: {says}" in problem


def test_a_project_without_its_file_is_reported_before_anything_runs(tmp_path):
    exe = tmp_path / "never-run"
    for project, says in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "holds no Project.toml"),
        (Path(__file__), "is a file"),
    ):
        report = probe(JuliaConfig(exe, project))
        assert says in report.problem
        assert str(project) in report.problem


@pytest.mark.parametrize("missing", [p.name for p in required_packages()])
def test_each_required_package_is_missed(fake_julia, julia_project, missing):
    report = probe(JuliaConfig(fake_julia(without=missing), julia_project))
    assert report.problem == f"{missing} is not in the project {julia_project}"


def test_every_missing_package_is_named(tmp_path, fake_julia, julia_project):
    exe = fake_julia(before="sys.argv[4:] = ['NoSuchPackage']")
    problem = probe(JuliaConfig(exe, julia_project)).problem
    assert all(p.name in problem for p in required_packages())


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ((ORDINARY.uuid, None), "but not installed in Julia's depot"),
        ((ORDINARY.uuid, "6.80.1"), "is version 6.80.1; pysemi needs 7"),
        (("00000000-0000-0000-0000-000000000000", "7.1.0"), "another package of that name"),
        ((ORDINARY.uuid, ""), "has no version"),
    ],
)
def test_a_package_that_will_not_do_is_reported(fake_julia, julia_project, entry, says):
    exe = fake_julia(packages={"OrdinaryDiffEq": entry})
    report = probe(JuliaConfig(exe, julia_project))
    assert not report.usable
    assert report.problem.startswith("OrdinaryDiffEq ")
    assert says in report.problem


def test_a_bad_optional_package_does_not_make_a_julia_unusable(fake_julia, julia_project):
    exe = fake_julia(packages={"CUDA": ("00000000-0000-0000-0000-000000000000", "5.0.0")})
    report = probe(JuliaConfig(exe, julia_project))
    assert report.usable
    assert "another package" in package(report, "CUDA").problem


def test_deep_says_that_the_packages_load(fake_julia, fake_juliacall, julia_project):
    fake_juliacall()
    exe = fake_julia(packages={"CUDA": ("052768ef-5323-5732-b1bb-66c8b64840ba", "5.4.0")})
    report = probe(JuliaConfig(exe, julia_project), deep=True)
    assert report.usable
    assert all(package.loads for package in report.packages)
    assert package(report, "CUDA").functional is False
    assert package(report, "OrdinaryDiffEqLowOrderRK").functional is None


def test_deep_starts_juliacall_with_this_julia(fake_julia, fake_juliacall, julia_project):
    exe = fake_julia()
    fake_juliacall(
        start=f"assert os.environ['PYTHON_JULIACALL_EXE'] == {str(exe)!r}\n"
        f"assert os.environ['PYTHON_JULIACALL_PROJECT'] == {str(julia_project)!r}\n"
        "assert os.environ['JULIA_PKG_OFFLINE'] == 'true'\n"
        "assert 'torch' in sys.modules, 'torch comes first, as for a user'\n"
    )
    assert probe(JuliaConfig(exe, julia_project), deep=True).problem is None


def test_deep_reports_a_package_that_does_not_load(fake_julia, fake_juliacall, julia_project):
    fake_juliacall(
        behaviour="if name == 'OrdinaryDiffEqLowOrderRK': "
        "record('failed', name=name, error='oh no'); return"
    )
    report = probe(JuliaConfig(fake_julia(), julia_project), deep=True)
    assert report.problem == "OrdinaryDiffEqLowOrderRK does not load: oh no"
    assert package(report, "OrdinaryDiffEqLowOrderRK").loads is False
    assert package(report, "OrdinaryDiffEq").loads is True


def test_deep_reports_the_package_that_crashed(fake_julia, fake_juliacall, julia_project):
    fake_juliacall(behaviour="if name == 'SciMLSensitivity': os.kill(os.getpid(), 11)")
    report = probe(JuliaConfig(fake_julia(), julia_project), deep=True)
    assert report.problem.startswith("SciMLSensitivity does not load: Python crashed (SIGSEGV)")
    assert package(report, "OrdinaryDiffEqLowOrderRK").loads is None


def test_deep_reports_the_package_that_hangs(fake_julia, fake_juliacall, julia_project):
    fake_juliacall(behaviour="if name == 'OrdinaryDiffEqLowOrderRK': time.sleep(600)")
    report = probe(JuliaConfig(fake_julia(), julia_project), deep=True, load_seconds=2)
    assert report.problem.startswith(
        "OrdinaryDiffEqLowOrderRK does not load: not loaded within 2 s"
    )
    assert report.timed_out


def test_deep_reports_a_juliacall_that_does_not_start(fake_julia, fake_juliacall, julia_project):
    fake_juliacall(start="print('ERROR: libfoo is missing', file=sys.stderr); raise Exception('x')")
    report = probe(JuliaConfig(fake_julia(), julia_project), deep=True)
    assert report.problem.startswith("PythonCall does not load")
    assert "libfoo is missing" in report.problem
    assert package(report, "OrdinaryDiffEq").loads is None


def test_deep_quotes_the_exception_of_a_python_that_ends(fake_julia, fake_juliacall, julia_project):
    fake_juliacall(start="raise ValueError('expecting yes or no')")
    report = probe(JuliaConfig(fake_julia(), julia_project), deep=True)
    assert "ValueError: expecting yes or no" in report.problem


def test_a_crash_after_everything_was_loaded_does_not_count(
    fake_julia, fake_juliacall, julia_project
):
    fake_juliacall(start="import atexit; atexit.register(os.kill, os.getpid(), 11)")
    assert probe(JuliaConfig(fake_julia(), julia_project), deep=True).usable


def test_a_hang_after_everything_was_loaded_does_not_count(
    fake_julia, fake_juliacall, julia_project
):
    fake_juliacall(start="import atexit; atexit.register(time.sleep, 600)")
    report = probe(JuliaConfig(fake_julia(), julia_project), deep=True, load_seconds=3)
    assert report.usable
    assert not report.timed_out


def test_deep_tries_nothing_on_a_julia_that_is_unusable(fake_julia, fake_juliacall, julia_project):
    fake_juliacall(start="raise AssertionError('was started')")
    report = probe(
        JuliaConfig(fake_julia(without="OrdinaryDiffEqLowOrderRK"), julia_project), deep=True
    )
    assert "was started" not in report.problem


@pytest.mark.julia
def test_a_real_julia_answers(real_julia):
    report = probe(real_julia)
    assert report.usable, report.problem
    assert report.threads >= 1
    assert "LBTConfig" in report.blas
    assert all(package.version for package in report.packages if package.required)


@pytest.mark.julia
@pytest.mark.slow
def test_a_real_julia_loads_the_packages(real_julia):
    report = probe(real_julia, deep=True, load_seconds=280)
    assert report.usable, report.problem
    assert all(package.loads for package in report.packages if package.required)


@pytest.mark.julia
def test_a_real_julia_with_an_empty_project_misses_every_package(real_julia, julia_project):
    julia = JuliaConfig(real_julia.executable, julia_project, real_julia.depot)
    problem = probe(julia).problem
    assert all(f"{p.name} is not in the project" in problem for p in required_packages())


@pytest.mark.julia
def test_a_real_julia_reports_a_project_file_that_is_no_toml(real_julia, julia_project):
    (julia_project / "Project.toml").write_text("[deps\nwhat is this")
    julia = JuliaConfig(real_julia.executable, julia_project, real_julia.depot)
    assert not probe(julia).usable
