"""Which backend a name stands for, and that the reason is said once."""

from __future__ import annotations

import logging

import pytest

from pysemi import backends
from pysemi.errors import ArgumentError, BackendUnavailableError


def test_auto_says_its_choice_and_the_reason_once(caplog):
    backends._announced_auto.cache_clear()
    with caplog.at_level(logging.INFO, logger="pysemi"):
        for _ in range(3):
            assert backends.choose_backend("auto").name == "torch"
    assert len(caplog.records) == 1
    name, reason = backends.explain_auto()
    assert name in caplog.text
    assert reason in caplog.text


def test_julia_is_refused_with_what_to_do():
    with pytest.raises(BackendUnavailableError, match=r"pysemi julia use EXE --project DIR"):
        backends.choose_backend("julia")


def test_an_unknown_backend_is_refused_with_the_names_there_are():
    with pytest.raises(ArgumentError, match="'auto', 'torch', 'julia'"):
        backends.choose_backend("jax")
