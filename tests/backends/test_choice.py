"""Which backend a name stands for, and that the reason is said once."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch

import pysemi
from pysemi import backends
from pysemi.backends.julia import JuliaBackend
from pysemi.config import JuliaConfig
from pysemi.errors import ArgumentError, BackendUnavailableError
from pysemi.problem import pose
from pysemi.runtime.location import FoundJulia
from tests.vector_fields import Decay


@pytest.fixture(autouse=True)
def nothing_said_yet():
    backends._announce.cache_clear()
    backends._warn_unusable.cache_clear()


def decay(method=None):
    return pose(
        lambda t, y: -y,
        torch.ones(2),
        torch.tensor([0.0, 1.0]),
        rtol=1e-3,
        atol=1e-3,
        method=method,
        options=None,
        event_fn=None,
    )


@pytest.fixture
def problem():
    return decay()


@pytest.fixture
def configured(isolated, monkeypatch, tmp_path):
    """A Julia that is recorded, and whose start is up to the test."""
    found = JuliaConfig(tmp_path / "julia", tmp_path)
    monkeypatch.setattr(backends, "find_julia", lambda: FoundJulia(found, "configured"))
    return found


def test_auto_is_torch_where_there_is_no_julia_and_says_why_once(isolated, problem, caplog):
    with caplog.at_level(logging.INFO, logger="pysemi"):
        for _ in range(3):
            assert backends.choose_backend("auto", problem, None, "auto")[0].name == "torch"
    assert len(caplog.records) == 1
    assert "pysemi julia install" in caplog.text


def test_auto_is_julia_where_one_is_configured_and_starts(configured, problem, monkeypatch):
    monkeypatch.setattr(JuliaBackend, "start", lambda self: None)
    with torch.no_grad():
        chosen, _ = backends.choose_backend("auto", problem, None, "auto")
    assert chosen.name == "julia"


def test_auto_falls_back_to_torch_with_one_warning_where_julia_does_not_start(
    configured, problem, monkeypatch
):
    def fail(self):
        raise BackendUnavailableError("the Julia is broken; run `pysemi doctor`")

    monkeypatch.setattr(JuliaBackend, "start", fail)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            assert backends.choose_backend("auto", problem, None, "auto")[0].name == "torch"
    assert ["pysemi doctor" in str(warning.message) for warning in said] == [True]


def test_auto_is_torch_for_what_only_torch_can_do(configured, caplog):
    only_torch = decay("euler")
    with caplog.at_level(logging.INFO, logger="pysemi"):
        assert backends.choose_backend("auto", only_torch, None, "auto")[0].name == "torch"
    assert "euler" in caplog.text


def test_a_bridge_asks_for_julia_and_so_auto_does_not_fall_back(configured):
    only_torch = decay("euler")
    with pytest.raises(ArgumentError, match="euler"):
        backends.choose_backend("auto", only_torch, None, "compiled")


def test_the_environment_can_decide_what_auto_means(configured, problem, monkeypatch):
    monkeypatch.setenv("PYSEMI_BACKEND", "torch")
    assert backends.choose_backend("auto", problem, None, "auto")[0].name == "torch"
    monkeypatch.setenv("PYSEMI_BACKEND", "jax")
    with pytest.raises(ArgumentError, match="neither 'torch' nor 'julia'"):
        backends.choose_backend("auto", problem, None, "auto")


def test_julia_without_one_is_refused_with_what_to_do(no_julia):
    y0, t = torch.ones(2), torch.tensor([0.0, 1.0])
    with pytest.raises(BackendUnavailableError, match="pysemi julia use EXE --project DIR"):
        pysemi.odeint_adjoint(Decay(), y0, t, backend="julia")


def test_an_unknown_backend_is_refused_with_the_names_there_are(problem):
    with pytest.raises(ArgumentError, match="'auto', 'torch', 'julia'"):
        backends.choose_backend("jax", problem, None, "auto")
