"""Programs that hang, crash, print without end or leave children behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysemi.runtime.subprocesses import run_limited, run_streamed


def python(program):
    return [sys.executable, "-SE", "-c", program]


def gone(pid):
    """Say whether the process ends soon (a zombie nobody waits for has ended)."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_program_s_output_and_exit_code_are_returned():
    outcome = run_limited(
        python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), limit=30
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (3, "out\n", "err\n")
    assert outcome.describe_end() == "exited with code 3"


def test_variables_are_added_to_those_of_this_process(monkeypatch):
    monkeypatch.setenv("OLD_ONE", "old")
    outcome = run_limited(
        python("import os; print(os.environ['OLD_ONE'], os.environ['NEW_ONE'])"),
        limit=30,
        environment={"NEW_ONE": "new"},
    )
    assert outcome.stdout == "old new\n"


def test_standard_input_is_empty():
    assert run_limited(python("import sys; print(repr(sys.stdin.read()))"), limit=30).stdout == (
        "''\n"
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_program_that_hangs_is_killed_with_its_children():
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-SEc', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "time.sleep(600)\n"
    )
    began = time.monotonic()
    outcome = run_limited(python(program), limit=2)
    assert time.monotonic() - began < 10
    assert outcome.returncode is None
    assert outcome.describe_end() == "did not end in time"
    assert gone(int(outcome.stdout))


def test_a_child_that_keeps_the_output_open_is_not_waited_for():
    program = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-SEc', 'import time; time.sleep(20)'],"
        " start_new_session=True)\n"
        "print('done')\n"
    )
    began = time.monotonic()
    assert run_limited(python(program), limit=60).stdout == "done\n"
    assert time.monotonic() - began < 15


def test_output_without_end_is_bounded_in_time_and_memory():
    outcome = run_limited(python("while True: print('x' * 10000)"), limit=1)
    assert outcome.returncode is None
    assert 0 < len(outcome.stdout) <= 1 << 20


def test_of_long_output_the_end_is_kept():
    outcome = run_limited(python("print('x' * 5_000_000); print('the end')"), limit=30)
    assert outcome.stdout.endswith("the end\n")
    assert len(outcome.stdout) == 1 << 20


def test_a_crash_is_named_by_its_signal():
    outcome = run_limited(python("import os; os.kill(os.getpid(), 11)"), limit=30)
    assert outcome.describe_end() == "crashed (SIGSEGV)"


def test_bytes_that_are_no_text_are_replaced():
    outcome = run_limited(python(r"import sys; sys.stdout.buffer.write(b'\xff\xfe!')"), limit=30)
    assert outcome.stdout == "\ufffd\ufffd!"


@pytest.mark.parametrize("runner", [run_limited, run_streamed])
def test_a_program_that_cannot_be_started_raises_oserror(tmp_path, runner):
    (tmp_path / "text").write_text("just text")
    (tmp_path / "text").chmod(0o755)
    options = {"limit": 5} if runner is run_limited else {"on_line": print}
    for path in (tmp_path / "absent", tmp_path / "text", tmp_path):
        with pytest.raises(OSError, match=r".+"):
            runner([str(path)], **options)


def test_streamed_lines_arrive_while_the_program_runs():
    lines = []
    program = (
        "import sys, time\n"
        "print('one', flush=True); print('two', file=sys.stderr, flush=True); time.sleep(3)\n"
        "print('three')\n"
    )
    began = time.monotonic()
    outcome = run_streamed(
        python(program), on_line=lambda line: lines.append((line, time.monotonic() - began))
    )
    assert [line for line, _ in lines] == ["one", "two", "three"]
    assert lines[1][1] < 2.5 < lines[2][1]
    assert outcome.stdout == "one\ntwo\nthree\n"
    assert outcome.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    "call", ["run_limited(command, limit=600)", "run_streamed(command, on_line=print)"]
)
def test_ctrl_c_kills_the_program_and_its_children(tmp_path, call):
    note = tmp_path / "pids"
    program = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-SEc', 'import time; time.sleep(600)'])\n"
        "with open(sys.argv[1] + '.new', 'w') as file: print(os.getpid(), child.pid, file=file)\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "time.sleep(600)\n"
    )
    caller = (
        "import sys\n"
        "from pysemi.runtime.subprocesses import run_limited, run_streamed\n"
        f"command = [sys.executable, '-SEc', {program!r}, {str(note)!r}]\n"
        f"{call}\n"
    )
    outer = subprocess.Popen([sys.executable, "-c", caller], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(word) for word in note.read_text().split()]
    outer.send_signal(signal.SIGINT)
    _, stderr = outer.communicate(timeout=60)
    assert "KeyboardInterrupt" in stderr
    assert all(gone(pid) for pid in pids)
