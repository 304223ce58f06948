"""The Julia package's own tests, by the command that CONTRIBUTING.md gives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pysemi.runtime.environment import offline_environment

ROOT = Path(__file__).parents[1]


@pytest.mark.julia
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_julia_package_passes_its_tests(real_julia):
    done = subprocess.run(
        [
            str(real_julia.executable),
            f"--project={real_julia.project}",
            str(ROOT / "julia" / "PySemi" / "test" / "runtests.jl"),
        ],
        env={**os.environ, **offline_environment(real_julia)},
        capture_output=True,
        text=True,
        timeout=1400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "PySemi" in done.stdout
