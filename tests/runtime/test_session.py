"""Julia in a Python process: threads, signals, forks, import orders, the end of the process.

What could take this process down runs in another one.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

import pysemi
from pysemi.errors import PysemiError, SolveError
from pysemi.runtime.session import _blas_threads_told, session
from tests.vector_fields import Decay, Spiral

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]

PREAMBLE = """
import os, signal, sys, threading, time
import torch, pysemi
from tests.vector_fields import Spiral
torch.set_num_threads(1)

def gradient(field, **options):
    field.zero_grad()
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    y = pysemi.odeint_adjoint(field, y0, t, rtol=1e-8, atol=1e-8, backend="julia", **options)
    y.square().sum().backward()
    return torch.cat([p.grad.reshape(-1) for p in field.parameters()])

def slow(end=20000.0):
    # Fast oscillation over a long time, for a solve of many seconds.
    class Slow(torch.nn.Module):
        def forward(self, t, y):
            return torch.stack([y[..., 1], -y[..., 0]], -1) * 200.0
    with torch.no_grad():
        pysemi.odeint(Slow(), torch.ones(64, 2, dtype=torch.float64),
                      torch.tensor([0.0, end], dtype=torch.float64),
                      rtol=1e-9, atol=1e-9, backend="julia", options=dict(max_num_steps=10**9))
"""


def run(
    script: str,
    *,
    first: str = "",
    timeout: float = 240,
    interrupt_at: str = "",
) -> str:
    """Run a script in a process of its own, and return what it printed.

    ``interrupt_at``: send SIGINT a second after this line was printed.
    """
    text = first + PREAMBLE + textwrap.dedent(script)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    out = []
    watchdog = threading.Timer(timeout, process.kill)
    watchdog.start()
    assert process.stdout is not None
    for line in process.stdout:
        out.append(line)
        if interrupt_at and line.strip() == interrupt_at:
            time.sleep(1)
            process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    watchdog.cancel()
    assert process.returncode == 0, "".join(out) + errors
    return "".join(out)


def gradient(field, **options):
    field.zero_grad()
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    y = pysemi.odeint_adjoint(field, y0, t, rtol=1e-8, atol=1e-8, **options)
    y.square().sum().backward()
    return torch.cat([p.grad.reshape(-1) for p in field.parameters()])


@pytest.mark.parametrize("bridge", ["compiled", "callback"])
def test_threads_train_at_once_and_get_their_own_gradients(bridge):
    fields = [Spiral() for _ in range(3)]
    with torch.no_grad():
        for scale, field in enumerate(fields, start=1):
            for parameter in field.parameters():
                parameter.mul_(scale / 2)
    expected = [gradient(field, backend="julia", bridge=bridge) for field in fields]
    mistakes = []

    def train(field, right):
        for _ in range(8):
            found = gradient(field, backend="julia", bridge=bridge)
            if not torch.equal(found, right):
                mistakes.append((found - right).abs().max().item())
            gc.collect()

    threads = [
        threading.Thread(target=train, args=pair) for pair in zip(fields, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        torch.randn(64, 64) @ torch.randn(64, 64)
    assert mistakes == []


def test_backward_may_run_on_another_thread():
    field = Spiral()
    expected = gradient(field, backend="julia")
    field.zero_grad()
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    y = pysemi.odeint_adjoint(field, y0, t, rtol=1e-8, atol=1e-8, backend="julia")
    thread = threading.Thread(target=y.square().sum().backward)
    thread.start()
    thread.join()
    found = torch.cat([p.grad.reshape(-1) for p in field.parameters()])
    assert torch.equal(found, expected)


def test_an_exception_of_the_vector_field_comes_out_as_itself_and_julia_goes_on():
    class OwnError(Exception):
        pass

    class Breaks(torch.nn.Module):
        def __init__(self, at):
            super().__init__()
            self.at = at
            self.rate = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, t, y):
            if float(t) > self.at:
                raise OwnError("in the middle")
            return -self.rate * y

    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y0 = torch.ones(3, dtype=torch.float64)
    with pytest.raises(OwnError, match="in the middle") as caught:
        pysemi.odeint_adjoint(Breaks(0.5), y0, t, backend="julia", bridge="callback")
    assert caught.traceback[-1].name == "forward"
    late = Breaks(5.0)
    y = pysemi.odeint_adjoint(late, y0, t, backend="julia", bridge="callback")
    late.at = 0.5
    with pytest.raises(OwnError):
        y.sum().backward()
    assert gradient(Spiral(), backend="julia").isfinite().all()


def test_results_outlive_everything_they_came_from():
    field = Spiral()
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    t = torch.linspace(0, 1, 4, dtype=torch.float64)
    kept = []
    for _ in range(30):
        y = pysemi.odeint_adjoint(field, y0, t, backend="julia")
        y.sum().backward()
        kept.append((y.detach(), [p.grad.clone() for p in field.parameters()]))
        field.zero_grad()
        del y
        gc.collect()
    session().evaluate("(GC.gc(); GC.gc(); 0)")
    for y, grads in kept[1:]:
        assert torch.equal(y, kept[0][0])
        assert all(map(torch.equal, grads, kept[0][1]))


def test_what_julia_holds_does_not_grow():
    def train(times):
        field = Spiral()
        for _ in range(times):
            gradient(field, backend="julia")
            gradient(field, backend="julia", bridge="callback")
        gc.collect()
        gradient(field, backend="julia")
        return session().evaluate("length(PySemi.HELD)")

    before = train(3)
    assert train(20) <= before + 2


def test_a_failed_solve_says_where_and_the_next_one_works():
    class BlowUp(torch.nn.Module):
        def forward(self, t, y):
            return y**2

    y0, t = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    with pytest.raises(SolveError) as caught:
        pysemi.odeint_adjoint(BlowUp(), y0, t, adjoint_params=(), backend="julia")
    assert caught.value.t == pytest.approx(1.0, abs=0.01)
    assert gradient(Spiral(), backend="julia").isfinite().all()


def test_python_goes_on_during_a_solve():
    out = run(
        """
        thread = threading.Thread(target=slow, daemon=True)
        gradient(Spiral())
        thread.start()
        time.sleep(0.5)
        began, count = time.time(), 0
        while time.time() - began < 1:
            count += 1
        print("counted" if count > 10_000 and thread.is_alive() else "blocked", count)
        sys.stdout.flush()
        os._exit(0)
        """
    )
    assert "counted" in out


def test_ctrl_c_stops_a_long_solve_and_leaves_julia_usable():
    out = run(
        """
        before = gradient(Spiral())
        print("ready")
        began = time.time()
        try:
            slow()
        except KeyboardInterrupt:
            print("stopped" if time.time() - began < 5 else "late")
        print("same" if torch.equal(gradient(Spiral()), before) else "different")
        """,
        interrupt_at="ready",
    )
    assert out.split() == ["ready", "stopped", "same"]


def test_a_signals_handler_runs_during_a_solve_and_what_it_raises_comes_out():
    out = run(
        """
        class Elapsed(Exception):
            pass

        seen = []

        def handler(number, frame):
            seen.append(number)
            if len(seen) == 1:
                with torch.enable_grad():  # slow() has none
                    print(torch.equal(gradient(Spiral()), before))  # a handler may solve, too
            elif len(seen) == 3:
                raise Elapsed("three times")

        before = gradient(Spiral())
        slow(0.01)  # the first of its kind is the home thread's
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
        began = time.time()
        try:
            slow()
        except Elapsed as error:
            print(error, len(seen), time.time() - began < 5)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(torch.equal(gradient(Spiral()), before))
        """
    )
    assert out.splitlines() == ["True", "three times 3 True", "True"]


def test_the_main_thread_solves_without_the_home_thread_and_others_by_it():
    out = run(
        """
        from pysemi.runtime import home
        from pysemi.runtime.session import started_session

        handed = []
        work = home._Handover.work
        home._Handover.work = lambda self: handed.append(1) or work(self)
        field = Spiral()
        before = gradient(field)
        handed.clear()
        print(torch.equal(gradient(field), before), len(handed))
        found = []

        def train():
            for _ in range(40):
                found.append(torch.equal(gradient(Spiral()), before))

        threads = [threading.Thread(target=train) for _ in range(3)]
        for thread in threads:
            thread.start()
        train()  # here, meanwhile
        for thread in threads:
            thread.join()
        print(all(found), len(found), len(handed) >= 240)
        collect = "(GC.gc(); Threads.maxthreadid() - Threads.nthreads())"
        for _ in range(3):
            train()
            print(started_session().evaluate(collect))
        """
    )
    # Beside its own threads, Julia knows the main thread and nobody else.
    assert out.splitlines() == ["True 0", "True 160 True", "1", "1", "1"]


def test_ctrl_c_in_a_callback_solve_too():
    out = run(
        """
        class Slow(torch.nn.Module):
            def forward(self, t, y):
                return torch.stack([y[1], -y[0]]) * 200.0
        gradient(Spiral())
        print("ready")
        began = time.time()
        try:
            with torch.no_grad():
                pysemi.odeint(Slow(), torch.ones(2), torch.tensor([0.0, 20000.0]), backend="julia",
                              bridge="callback", options=dict(max_num_steps=10**9))
        except KeyboardInterrupt:
            print("stopped" if time.time() - began < 5 else "late")
        gradient(Spiral())
        print("usable")
        """,
        interrupt_at="ready",
    )
    assert out.split() == ["ready", "stopped", "usable"]


def test_ctrl_c_while_julia_starts_leaves_a_start_that_can_be_waited_for():
    out = run(
        """
        from pysemi.runtime import session

        def watch():
            while session._begun is None or not session._begun._interrupts_taken.is_set():
                time.sleep(0.01)
            print("loading")  # Julia itself is up then

        threading.Thread(target=watch, daemon=True).start()
        try:
            gradient(Spiral())
        except KeyboardInterrupt:
            print("stopped")
        print("usable" if gradient(Spiral()).isfinite().all() else "broken")
        """,
        interrupt_at="loading",
    )
    assert out.split() == ["loading", "stopped", "usable"]


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.8, 1.3])
def test_a_program_may_end_while_julia_starts(seconds):
    text = PREAMBLE + textwrap.dedent(
        f"""
        from pysemi.runtime import session

        threading.Thread(target=session.session, daemon=True).start()
        while session._begun is None or not session._begun._interrupts_taken.is_set():
            time.sleep(0.005)
        time.sleep({seconds})
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_program_may_end_while_another_thread_solves():
    out = run(
        """
        from pysemi.runtime.session import session

        gradient(Spiral())
        threading.Thread(target=slow, daemon=True).start()
        while session().home._inside.acquire(blocking=False):
            session().home._inside.release()
            time.sleep(0.001)
        print("leaving")
        """,
        timeout=60,
    )
    assert out == "leaving\n"


def test_a_solve_at_the_end_of_the_program_is_refused():
    out = run(
        """
        import atexit
        from pysemi.errors import BackendUnavailableError

        def late():
            try:
                gradient(Spiral())
            except BackendUnavailableError as error:
                print(error)

        atexit.register(late)
        gradient(Spiral())
        if (child := os.fork()) == 0:
            sys.exit(0)
        print(os.waitpid(child, 0)[1], flush=True)
        """,
        timeout=120,
    )
    assert out.splitlines()[-2:] == ["0", "Julia has ended with the program; solve before its end"]


def test_julia_started_on_another_thread_leaves_ctrl_c_to_python():
    out = run(
        """
        thread = threading.Thread(target=lambda: gradient(Spiral()))
        thread.start()
        thread.join()
        gradient(Spiral())
        print("ready")
        began = time.time()
        try:
            slow()
        except KeyboardInterrupt:
            print("stopped" if time.time() - began < 5 else "late")
        """,
        interrupt_at="ready",
    )
    assert out.split() == ["ready", "stopped"]


def test_a_forked_child_gets_a_clear_error_and_the_parent_goes_on():
    out = run(
        """
        before = gradient(Spiral())
        child = os.fork()
        if child == 0:
            try:
                gradient(Spiral())
            except pysemi.errors.BackendUnavailableError as error:
                print("refused" if "spawn" in str(error) else error)
                sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
        print("same" if torch.equal(gradient(Spiral()), before) else "different")
        """
    )
    assert out.split() == ["refused", "same"]


def test_spawned_processes_train_each_with_its_own_julia(tmp_path):
    script = tmp_path / "spawning.py"
    script.write_text(
        PREAMBLE
        + textwrap.dedent(
            """
            import torch.multiprocessing as multiprocessing

            def work(rank, queue):
                queue.put((rank, gradient(Spiral()).sum().item()))

            if __name__ == "__main__":
                context = multiprocessing.get_context("spawn")
                queue = context.Queue()
                children = [context.Process(target=work, args=(rank, queue)) for rank in range(2)]
                for child in children:
                    child.start()
                found = dict(queue.get(timeout=200) for _ in children)
                for child in children:
                    child.join()
                print("same" if found[0] == found[1] else "different",
                      [child.exitcode for child in children])
            """
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert done.stdout.strip() == "same [0, 0]", done.stderr


def test_juliacall_may_be_imported_first():
    out = run(
        """
        print("right" if gradient(Spiral()).isfinite().all() else "wrong")
        failed = []
        def elsewhere():
            try:
                gradient(Spiral())
            except pysemi.errors.BackendUnavailableError as error:
                failed.append(str(error))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        print("refused" if "main thread" in failed[0] else failed)
        print(Main.seval("1 + 1"))
        """,
        first=textwrap.dedent(
            """
            import os
            from pysemi.config import read_julia
            from pysemi.runtime.environment import juliacall_environment
            os.environ.update(juliacall_environment(read_julia()))
            os.environ["PYTHON_JULIACALL_HANDLE_SIGNALS"] = "yes"
            folder = os.path.dirname(os.environ["PYTHON_JULIACALL_EXE"])
            os.environ["PATH"] = folder + ":" + os.environ["PATH"]
            from juliacall import Main
            """
        ),
    )
    assert out.split() == ["right", "refused", "2"]


def test_the_session_is_what_diffeqpy_sees():
    out = run(
        """
        gradient(Spiral())
        from pysemi.runtime.session import session
        session = session()
        def ask():
            from diffeqpy import load_julia_packages
            return str(load_julia_packages("PySemi"))
        print(session.home.run(ask))
        """
    )
    assert out.split() == ["PySemi"]


def test_a_program_may_read_a_pipe_after_julia_has_started():
    program = (
        "import os, sys; from pysemi.runtime.session import session; session(); "
        "print('started', flush=True); print(sys.stdin.readline(), os.get_blocking(1))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)  # the program is at its end if its input does not wait
    out, errors = process.communicate("words\n", timeout=60)
    assert (out, errors) == ("words\n True\n", "")


def test_what_julia_raises_is_told_in_its_words():
    with pytest.raises(PysemiError, match=r"evaluate 'sqrt.*DomainError"):
        session().evaluate("sqrt(-1.0)")
    assert session().evaluate("sqrt(4.0)") == 2.0


def test_blas_threads_follow_torch_unless_told_otherwise(monkeypatch):
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            gradient(Spiral(), backend="julia")
            assert session().evaluate("PySemi.BLAS.get_num_threads()") == threads
            assert session().home.run(torch.get_num_threads) == threads
        monkeypatch.setattr(session(), "_blas_threads_told", 2)  # PYSEMI_BLAS_THREADS, at the start
        gradient(Spiral(), backend="julia")
        assert session().evaluate("PySemi.BLAS.get_num_threads()") == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("told", "threads"), [("2", 2), ("", 0), ("0", 0), ("some", 0)])
def test_the_environment_says_how_many_blas_threads(told, threads, monkeypatch):
    monkeypatch.setenv("PYSEMI_BLAS_THREADS", told)
    assert _blas_threads_told() == threads


def test_decay_in_float32_and_backward_in_time():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-8)):
        field = Decay().to(dtype)
        y0 = torch.ones(2, dtype=dtype)
        t = torch.tensor([1.0, 0.5, 0.0], dtype=dtype)
        y = pysemi.odeint_adjoint(field, y0, t, rtol=tolerance, atol=tolerance, backend="julia")
        exact = torch.exp(1 - t).unsqueeze(1).expand(3, 2)
        assert y.dtype == dtype
        assert torch.allclose(y, exact, rtol=10 * tolerance)
