"""Solves with compilations from disk; what is wrong there is found out, and gone."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from pysemi import kept
from pysemi.compiler.compiled import forget_compilations
from pysemi.errors import CompileError
from pysemi.recall import forget_calls
from tests.backends.test_julia import gradients
from tests.vector_fields import times

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("real_julia")]

T = times(0.0, 0.5, 1.0)
Y0 = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, caplog):
    """An empty cache of this test's own."""
    monkeypatch.setenv("PYSEMI_COMPILATION_CACHE", "on")
    monkeypatch.setenv("PYSEMI_CACHE_DIR", str(tmp_path / "cache"))
    caplog.set_level(logging.DEBUG, "pysemi")
    forget_compilations()
    yield tmp_path / "cache" / "compilations"
    forget_compilations()


class Field(nn.Module):
    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 5), activation, nn.Linear(5, 2)).double()

    def forward(self, t, y):
        return self.net(y) * torch.cos(t)


def on_julia(field, **options):
    """As the next process solves."""
    forget_compilations()
    forget_calls()
    y, found, _ = gradients(field, Y0, T, "julia", bridge="compiled", **options)
    return [y, *found]


def on_torch(field):
    y, found, _ = gradients(field, Y0, T, "torch")
    return [y, *found]


def assert_equal(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def entries(cache):
    return {path.stem: path.read_bytes() for path in cache.iterdir()}


def test_the_next_process_solves_with_what_it_finds(cache, caplog):
    field = Field(nn.Tanh())
    first = on_julia(field)
    before = entries(cache)
    assert len(before) == 1
    caplog.clear()
    second = on_julia(field)
    assert "found on disk" in caplog.text
    assert "compiled:" not in caplog.text
    for mine, theirs in zip(first, second, strict=True):
        assert torch.equal(mine, theirs)
    assert entries(cache) == before
    assert_equal(second, on_torch(field))


@pytest.mark.parametrize("verify", ["first", "always"])
def test_what_is_another_s_is_found_out_and_replaced(cache, caplog, verify):
    field, other = Field(nn.Tanh()), Field(nn.Sigmoid())
    on_julia(field)
    (name,) = entries(cache)
    on_julia(other)
    (wrong,) = set(entries(cache)) - {name}
    foreign = kept.read(wrong)
    kept.write(name, foreign)
    caplog.clear()
    assert_equal(on_julia(field, verify=verify), on_torch(field))
    said = caplog.text
    assert said.index("found on disk") < said.index("is wrong") < said.index("compiled:")
    assert kept.read(name) not in (None, foreign)
    assert kept.read(wrong) == foreign
    caplog.clear()
    assert_equal(on_julia(field, verify=verify), on_torch(field))
    assert "found on disk" in caplog.text
    assert "is wrong" not in caplog.text


def test_a_tape_that_julia_cannot_build_is_replaced(cache, caplog):
    field = Field(nn.Tanh())
    wanted = on_julia(field)
    (name,) = entries(cache)
    right = kept.read(name)
    broken = right.replace("= matmul", "= no_such_kernel").replace("tanh(", "no_such_function(")
    assert broken != right
    kept.write(name, broken)
    caplog.clear()
    assert_equal(on_julia(field), wanted)
    assert "is wrong" in caplog.text
    assert kept.read(name) not in (None, broken)


def test_what_pytorch_never_agrees_with_is_not_kept(cache, monkeypatch):
    class Unseen(nn.Module):
        """Counts where no inventory looks."""

        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, t, y):
            torch.number_of_a_test += 1.0
            return y * self.rate * torch.number_of_a_test

    monkeypatch.setattr(torch, "number_of_a_test", 0.0, raising=False)
    with pytest.raises(CompileError, match="differs from PyTorch"):
        on_julia(Unseen())
    assert entries(cache) == {}


@pytest.mark.parametrize("verify", ["first", "never"])
def test_what_no_look_can_see_is_found_out_by_comparing(cache, monkeypatch, verify):
    class Unseen(nn.Module):
        """Reads what belongs to torch, and so is taken to be constant."""

        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, t, y):
            return y * self.rate * torch.number_of_a_test

    field = Unseen()
    for number in (-1.0, -2.0):
        monkeypatch.setattr(torch, "number_of_a_test", number, raising=False)
        assert_equal(on_julia(field, verify=verify), on_torch(field))
    assert len(entries(cache)) == 1
