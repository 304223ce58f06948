"""The wheel holds all that the package needs, and nothing of the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
        timeout=200,
    )
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel, and this one's other packages."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False)
    python = root / "bin" / "python"
    (site,) = (root / "lib").glob("python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--target", site, wheel],
        check=True,
        timeout=120,
    )  # fmt: skip
    # A path in a .pth file brings packages, but not the .pth files (editable installs) in it.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def run(python, folder, program) -> str:
    """What a program prints, run in a folder that has nothing of the checkout."""
    return subprocess.run(
        [python, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        timeout=120,
    ).stdout


def test_the_wheel_holds_every_file_of_the_package(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pysemi").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= held
    julia = {
        f"pysemi/{path.relative_to(ROOT)}"
        for path in (ROOT / "julia").rglob("*")
        if path.is_file() and "test" not in path.parts
    }
    assert "pysemi/julia/PySemi/src/PySemi.jl" in julia <= held
    benchmarks = {
        f"pysemi/{path.relative_to(ROOT)}" for path in (ROOT / "benchmarks").rglob("*.py")
    }
    assert "pysemi/benchmarks/bench.py" in benchmarks <= held
    assert not any("/test/" in name for name in held)
    assert all(name.startswith(("pysemi/", "pysemi-")) for name in held)


def test_the_wheel_is_marked_as_typed_and_licensed(wheel):
    held = zipfile.ZipFile(wheel).namelist()
    assert "pysemi/py.typed" in held
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_the_installed_wheel_finds_its_own_julia_packages(python, tmp_path):
    found = run(
        python, tmp_path, "from pysemi.runtime.session import julia_packages as p; print(p())"
    ).strip()
    assert Path(found).is_relative_to(python.parents[1])
    assert (Path(found) / "PySemi" / "src" / "PySemi.jl").is_file()


def test_the_installed_wheel_finds_its_own_benchmark(python, tmp_path):
    program = (
        "from pysemi.cli.bench import benchmark_script as s; from pysemi.cli import main; "
        "print(s(), flush=True); main(['bench', '--help'])"
    )
    found, *usage = run(python, tmp_path, program).splitlines()
    assert Path(found).is_relative_to(python.parents[1])
    assert "--against" in "".join(usage)


def test_the_checkout_uses_the_julia_packages_beside_it():
    from pysemi.runtime.session import julia_packages

    assert julia_packages() == ROOT / "julia"


def test_the_installed_wheel_runs_an_experiment(python, tmp_path):
    where = run(python, tmp_path, "import pysemi; print(pysemi.__file__)").strip()
    assert Path(where).is_relative_to(python.parents[1])
    settings = ("epochs=1", "train_limit=20", "test_limit=10", "width=4", "hidden_channels=4")
    changes = [word for setting in settings for word in ("--set", setting)]
    changes += ["--seeds", "1", "--variant", "rtol 1e-3"]
    done = subprocess.run(
        [python, "-m", "pysemi", "reproduce", "japanese-vowels", *changes, "--out", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["rows"]
    assert [row["norm"] for row in rows] == ["default", "seminorm"]
    assert (tmp_path / "out" / "report.html").exists()


def test_requirements_cap_no_version_of_torch():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert '"torch>=2.4"' in text
    assert "torch<" not in text
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text("utf-8")
