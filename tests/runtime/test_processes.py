"""More processes than one: fork, spawn, DataLoader workers, pools; what each of them gets.

Every test is a program of its own, since what is tested takes processes down or hangs them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTS = 280
"""Seconds within which a program and its children may start Julia and be done."""

PREAMBLE = """
import concurrent.futures, multiprocessing, os, pickle, signal, sys, threading, time, warnings
import torch, pysemi
from pysemi.errors import BackendUnavailableError
from tests.vector_fields import Spiral
torch.set_num_threads(1)

def gradient(backend="julia", field=None):
    field = Spiral() if field is None else field
    field.zero_grad()
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    y = pysemi.odeint_adjoint(field, y0, t, rtol=1e-9, atol=1e-9, backend=backend)
    y.square().sum().backward()
    return torch.cat([p.grad.reshape(-1) for p in field.parameters()]).tolist()

def attempt(backend="julia"):
    "What a solve says: whose gradient, or which error; and each warning."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            result = gradient(backend)
        except BackendUnavailableError as error:
            result = str(error)
    return result, [str(warning.message) for warning in said]

def close(found, expected):
    return isinstance(found, list) and torch.allclose(torch.tensor(found), torch.tensor(expected))

def refused(found):
    return isinstance(found, str) and "forked" in found and "spawn" in found

class Solves(torch.utils.data.Dataset):
    "Each item is a solve, on one backend or another."
    def __init__(self, backend):
        self.backend = backend
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.tensor(gradient(self.backend))
"""


def run(tmp_path, script: str, *, timeout: float = STARTS, returncode: int = 0) -> list[str]:
    """Run a program with a main module that children can import; return its lines."""
    body = textwrap.indent(textwrap.dedent(script), "    ")
    path = tmp_path / "program.py"
    path.write_text(f"{PREAMBLE}\nif __name__ == '__main__':\n{body}\n", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # so that a child which hangs goes too
    )
    try:
        out, errors = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == returncode, out + errors
    assert "signal (" not in errors, errors  # Julia announces a crash of a child so
    return out.splitlines()


class TestWithoutJulia:
    """Solves on torch, in forked and spawned workers."""

    def test_data_loader_workers_solve_on_torch(self, tmp_path):
        lines = run(
            tmp_path,
            """
            expected = gradient("torch")
            for method in ("fork", "spawn"):
                loader = torch.utils.data.DataLoader(
                    Solves("torch"), num_workers=2, multiprocessing_context=method)
                print(all(close(row.tolist(), expected) for batch in loader for row in batch))
            """,
        )
        assert lines == ["True", "True"]

    def test_a_failed_solve_in_a_pool_is_raised_as_itself(self, tmp_path):
        lines = run(
            tmp_path,
            """
            def blow_up(_):
                y0 = torch.ones(1, dtype=torch.float64)
                t = torch.tensor([0.0, 2.0], dtype=torch.float64)
                pysemi.odeint(lambda t, y: y**2, y0, t, backend="torch")

            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("fork")
            ) as pool:
                try:
                    pool.submit(blow_up, 0).result()
                except pysemi.errors.SolveError as error:
                    print(error.direction, round(error.t, 3))
                print(pool.submit(len, [1]).result())
            """,
        )
        assert lines == ["forward 1.0", "1"]


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
class TestFork:
    """Julia runs in the parent, and does not survive a fork."""

    def test_data_loader_workers_feed_a_training_loop(self, tmp_path):
        lines = run(
            tmp_path,
            """
            data = torch.utils.data.TensorDataset(torch.randn(8, 2, dtype=torch.float64))
            options = dict(batch_size=4, num_workers=2, multiprocessing_context="fork")
            before = torch.utils.data.DataLoader(data, persistent_workers=True, **options)
            iter(before)  # these workers are older than Julia
            expected = gradient()
            after = torch.utils.data.DataLoader(data, **options)
            for loader in (before, after, after):
                for (y0,) in loader:
                    assert gradient() == expected and y0.shape == (4, 2)
            print("trained")
            """,
        )
        assert lines == ["trained"]

    def test_a_worker_that_solves_gets_one_sentence_or_torch(self, tmp_path):
        lines = run(
            tmp_path,
            """
            expected = gradient()
            context = dict(num_workers=2, multiprocessing_context="fork")
            try:
                list(torch.utils.data.DataLoader(Solves("julia"), **context))
            except BackendUnavailableError as error:
                print(refused(str(error)))
            loader = torch.utils.data.DataLoader(Solves("auto"), **context)
            print(all(close(row.tolist(), expected) for batch in loader for row in batch))
            print(gradient() == expected)
            """,
        )
        assert lines == ["True", "True", "True"]

    def test_pools_refuse_or_fall_back_once_and_the_parent_goes_on(self, tmp_path):
        lines = run(
            tmp_path,
            """
            import joblib
            expected = gradient()
            fork = multiprocessing.get_context("fork")
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:
                print(all(refused(found) for found, _ in pool.map(attempt, ["julia"] * 3)))
                error = pool.submit(gradient).exception()
                print(type(error).__name__, refused(str(error)))
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=fork) as pool:
                tried = list(pool.map(attempt, ["auto"] * 3))
                print(all(close(found, expected) for found, _ in tried))
                print([len(said) for _, said in tried], refused(tried[0][1][0]))
            with fork.Pool(2) as pool:  # whose end is a SIGTERM to each worker
                print(all(refused(found) for found, _ in pool.map(attempt, ["julia"] * 3)))
            forking = joblib.Parallel(n_jobs=2, backend="multiprocessing")
            tried = forking(joblib.delayed(attempt)() for _ in range(2))
            print(all(refused(found) for found, _ in tried))
            threads = joblib.Parallel(n_jobs=2, backend="threading")
            tried = threads(joblib.delayed(gradient)() for _ in range(4))
            print(all(found == expected for found in tried))
            print(gradient() == expected)
            """,
        )
        assert lines == [
            "True",
            "BackendUnavailableError True",
            "True",
            "[1, 0, 0] True",
            "True",
            "True",
            "True",
            "True",
        ]

    def test_children_end_in_every_way_and_touch_no_julia(self, tmp_path):
        lines = run(
            tmp_path,
            """
            import gc
            field = Spiral()
            y0 = torch.ones(2, dtype=torch.float64)
            t = torch.linspace(0, 1, 3, dtype=torch.float64)
            kept = pysemi.odeint_adjoint(field, y0, t, backend="julia")
            expected = gradient()

            def child(act):
                pid = os.fork()
                if pid == 0:
                    act()
                    sys.exit(0)  # with everything that is done at the end of a program
                return pid

            def status(pid, limit=30):
                for _ in range(limit * 20):
                    found, code = os.waitpid(pid, os.WNOHANG)
                    if found:
                        return os.WTERMSIG(code) and -os.WTERMSIG(code) or os.WEXITSTATUS(code)
                    time.sleep(0.05)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return "hangs"

            def let_go():
                global kept, field
                del kept, field
                gc.collect()

            def go_on():
                print(close(gradient("torch"), expected), refused(attempt()[0]))

            print(status(child(lambda: None)))
            print(status(child(let_go)))
            print(status(child(go_on)))
            pid = child(lambda: time.sleep(60))
            time.sleep(0.5)
            os.kill(pid, signal.SIGTERM)
            print(status(pid))
            pid = child(lambda: time.sleep(60))
            time.sleep(0.5)
            os.kill(pid, signal.SIGINT)
            print(status(pid))
            kept.sum().backward()
            print(gradient() == expected)
            """,
        )
        # Python's own answer to SIGINT is KeyboardInterrupt, and code 1 or the signal.
        assert lines[:-2] == ["0", "0", "True True", "0", str(-signal.SIGTERM)]
        assert lines[-2] in ("1", str(-signal.SIGINT))
        assert lines[-1] == "True"

    def test_a_child_forked_while_julia_starts_is_refused_and_does_not_wait(self, tmp_path):
        lines = run(
            tmp_path,
            """
            from pysemi.runtime import session
            starting = threading.Thread(target=gradient)
            starting.start()
            while session._begun is None:
                time.sleep(0.01)
            time.sleep(0.5)
            assert session._starting.locked()
            child = os.fork()
            if child == 0:
                print(refused(attempt()[0]))
                sys.exit(0)
            print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))
            starting.join()
            print(close(gradient(), gradient("torch")))
            """,
        )
        assert lines == ["True", "0", "True"]

    def test_julia_may_start_in_a_child_that_is_forked_before(self, tmp_path):
        lines = run(
            tmp_path,
            """
            fork = multiprocessing.get_context("fork")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=fork) as pool:
                found = pool.submit(gradient).result()
            print(found == gradient())
            """,
        )
        assert lines == ["True"]

    def test_the_end_of_a_program_that_is_terminated_is_its_own(self, tmp_path):
        lines = run(
            tmp_path,
            """
            gradient()
            print("ready")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
            """,
            returncode=-signal.SIGTERM,
        )
        assert lines == ["ready"]


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
class TestSpawn:
    """Every child has a Julia of its own."""

    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_data_loader_workers_may_solve(self, method, tmp_path):
        lines = run(
            tmp_path,
            f"""
            expected = gradient()
            loader = torch.utils.data.DataLoader(
                Solves("julia"), num_workers=2, multiprocessing_context="{method}")
            print(all(close(row.tolist(), expected) for batch in loader for row in batch))
            """,
        )
        assert lines == ["True"]

    def test_joblib_and_executors_solve_in_their_workers(self, tmp_path):
        lines = run(
            tmp_path,
            """
            import joblib
            expected = gradient()
            found = joblib.Parallel(n_jobs=2)(joblib.delayed(gradient)() for _ in range(4))
            print(all(close(one, expected) for one in found))
            spawn = multiprocessing.get_context("spawn")
            field = Spiral()
            assert gradient(field=field) == expected  # used by Julia here, and sent there
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
                print(close(pool.submit(gradient, "julia", field).result(), expected))
            """,
        )
        assert lines == ["True", "True"]
