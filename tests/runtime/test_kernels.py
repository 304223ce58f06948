"""Kernels that are kept on disk: found by the next process, and never in anyone's way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysemi.cli import main
from pysemi.runtime.kernels import clear_kernels, kept_kernels, kernel_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("PYSEMI_KERNEL_CACHE", "on")
    monkeypatch.setenv("PYSEMI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_package(cache):
    """What PySemi.jl leaves there, as far as Python looks at it."""
    folder = cache / "kernels" / "9a" / "PySemiKernels_1"
    (folder / "src").mkdir(parents=True)
    (folder / "Project.toml").write_text("name")
    (folder / "src" / "PySemiKernels_1.jl").write_text("module")
    return folder


class TestFolder:
    """Where it is, what is in it, and how it goes."""

    @pytest.mark.parametrize("value", ["off", "0", "no", "OFF"])
    def test_it_can_be_switched_off(self, cache, value, monkeypatch, capsys):
        write_package(cache)
        monkeypatch.setenv("PYSEMI_KERNEL_CACHE", value)
        assert kernel_folder() is None
        assert kept_kernels() is None
        assert clear_kernels() is None
        assert main(["julia", "kernels", "--clear"]) == 0
        assert "PYSEMI_KERNEL_CACHE" in capsys.readouterr().out
        assert cache.exists()

    def test_without_a_home_there_is_none(self, cache, monkeypatch):
        monkeypatch.delenv("PYSEMI_CACHE_DIR")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        assert kernel_folder() is None

    def test_it_is_in_the_users_cache(self, cache, monkeypatch):
        assert kernel_folder() == cache / "kernels"
        monkeypatch.delenv("PYSEMI_CACHE_DIR")
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
        monkeypatch.setattr(sys, "platform", "linux")
        assert kernel_folder() == Path("/somewhere/cache/pysemi/kernels")
        monkeypatch.setattr(sys, "platform", "darwin")
        assert kernel_folder() == Path.home() / "Library/Caches/pysemi/kernels"

    def test_what_is_kept_is_counted_and_cleared(self, cache, capsys):
        assert kept_kernels().packages == 0
        folder = write_package(cache)
        assert main(["julia", "kernels"]) == 0
        assert f"those of 1 model, 0.0 MB, in {cache / 'kernels'}" in capsys.readouterr().out
        assert kept_kernels().size == len("name") + len("module")
        assert main(["julia", "kernels", "--clear"]) == 0
        assert capsys.readouterr().out.startswith("removed: those of 1 model")
        assert not folder.exists()
        assert main(["julia", "kernels", "--clear"]) == 0  # nothing is there to be removed

    def test_a_file_in_its_place_is_no_folder(self, cache):
        cache.mkdir()
        (cache / "kernels").write_text("")
        assert kept_kernels().packages == 0


PROGRAM = """
import json, sys, time, torch, pysemi
from torch import nn
from pysemi.runtime import kernels, session
session.KEEP_AFTER = float(sys.argv[1])
torch.set_num_threads(1)

class Field(nn.Module):
    "Kernels that no other model has, and that take a while to compile."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 7), nn.Softplus(), nn.Linear(7, 7), nn.Mish(),
            nn.Linear(7, 5), nn.GELU(), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    def forward(self, t, y):
        return self.net(torch.cos(t) * y) - y * y.square().mean(-1, keepdim=True).atan()

def gradient(batch):
    field = Field()
    y0 = torch.linspace(-1, 1, 3 * batch, dtype=torch.float64).view(batch, 3)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    # What needs nothing else: loading other adjoints takes long enough to compile the kernels.
    where = dict(backend="julia", bridge="compiled", adjoint="discrete")
    y = pysemi.odeint_adjoint(field, y0, t, rtol=1e-9, atol=1e-9, **where)
    y.square().sum().backward()
    return torch.cat([p.grad.reshape(-1) for p in field.parameters()]).tolist()

julia = session.session()
julia.evaluate("Base.cumulative_compile_timing(true)")
found = [gradient(4), gradient(6)]
compiled = julia.evaluate("Int(Base.cumulative_compile_time_ns()[1])") / 1e9
names = "string.(values(Base.loaded_modules))"
loaded = julia.evaluate(f"join(filter(startswith(\\"PySemiKernels\\"), {names}), ' ')")
print(json.dumps({"gradients": found, "compiled": compiled, "loaded": loaded.split()}), flush=True)
sys.stdin.read()
"""


class Solve:
    """A process that solves, and stays until it is told to end."""

    def __init__(self, keep_after=0.0):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(keep_after)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def found(self):
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def end(self):
        """Let it end, and see that it says nothing on the way."""
        _, errors = self.process.communicate("", timeout=60)
        assert self.process.returncode == 0
        assert errors == ""


def solved(keep_after=0.0):
    with Solve(keep_after) as solve:
        found = solve.found()
        solve.end()
    return found


def images(cache):
    return sorted((cache / "kernels").glob("*/compiled/*/*/*.ji"))


def packages(cache):
    return sorted((cache / "kernels").glob("*/PySemiKernels_*"))


def compilers(cache):
    """Processes that compile for this cache."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if str(cache).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def until(condition, what, timeout=200):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def until_compiled(cache, count=1):
    until(lambda: len(images(cache)) >= count, "nothing was compiled")
    until(lambda: not compilers(cache), "the compiler does not end")


@pytest.mark.julia
@pytest.mark.slow
@pytest.mark.usefixtures("real_julia")
@pytest.mark.timeout(900)
class TestProcesses:
    """Processes that write and read one cache."""

    def test_later_processes_load_what_earlier_ones_compiled(self, cache):
        # Two ranks, at once and with nothing there: both compile for themselves.
        with Solve() as first, Solve() as second:
            alone = [first.found(), second.found()]
            first.end()  # before the background is done
            second.end()
        assert [each["loaded"] for each in alone] == [[], []]
        until_compiled(cache)
        # Another batch size has the same kernels, and two ranks have one package.
        assert len(packages(cache)) == len(images(cache)) == 1
        assert not list((cache / "kernels").glob("*/jl_*"))
        kept = images(cache)[0].stat().st_ino
        later = solved()
        assert later["loaded"] == [packages(cache)[0].name]
        assert later["gradients"] == alone[0]["gradients"] == alone[1]["gradients"]
        assert later["compiled"] < 0.7 * min(each["compiled"] for each in alone)
        assert images(cache)[0].stat().st_ino == kept  # nothing is written again

        # What is damaged is not used, and is mended.
        (library,) = (cache / "kernels").glob("*/compiled/*/*/*.so")
        library.write_bytes(library.read_bytes()[:5000])
        damaged = solved()
        assert damaged["gradients"] == later["gradients"]
        assert damaged["loaded"] == []
        until(lambda: library.stat().st_size > 5000, "it is not mended")
        until_compiled(cache)
        assert solved()["loaded"] == later["loaded"]

    def test_a_compiler_that_is_killed_leaves_nothing_in_the_way(self, cache):
        with Solve() as solve:
            solve.found()
            until(lambda: list((cache / "kernels").rglob("compiled")), "nothing is being compiled")
            time.sleep(1)
            for pid in compilers(cache):
                os.kill(pid, signal.SIGKILL)
            solve.end()
        assert images(cache) == []
        assert solved()["loaded"] == []
        until_compiled(cache)
        assert len(solved()["loaded"]) == 1

    def test_what_compiles_soon_is_not_kept(self, cache):
        solved(keep_after=1000.0)
        assert packages(cache) == []

    def test_a_folder_that_cannot_be_written_to_is_no_problem(self, cache):
        cache.mkdir()
        (cache / "kernels").write_text("")
        assert solved()["loaded"] == []
