"""Ways to one gradient, measured side by side."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pysemi.errors import ArgumentError
from pysemi.experiments import Plan, reproduce
from pysemi.experiments.quadrature import QUADRATURE, WAYS, Measurement
from pysemi.experiments.quadrature_report import quadrature_section
from tests.experiments.quiet import Quiet

TINY = dataclasses.replace(
    QUADRATURE.preset("quick"),
    variants={"spiral": {}},
    epochs=1,
    batch_size=64,
    tolerances="1e-3 1e-6",
)


def run(out, **changes):
    plan = {
        "experiment": QUADRATURE,
        "preset_name": "quick",
        "preset": TINY,
        "backend": "torch",
        "arms": QUADRATURE.arms,
        "seeds": 1,
        "out": out,
        "resume": False,
        "command": "reproduce quadrature",
    }
    return reproduce(Plan(**{**plan, **changes}), Quiet())


def test_torch_measures_both_norms_and_their_errors_follow_the_tolerance(tmp_path):
    outcome = run(tmp_path)
    (row,) = json.loads((tmp_path / "summary.json").read_text("utf-8"))["rows"]
    measured = {(one["way"], one["tolerance"]): one for one in row["measurements"]}
    assert set(measured) == {
        (way, tolerance)
        for way in ("backsolve-default", "backsolve-seminorm")
        for tolerance in (1e-3, 1e-6)
    }
    for way in ("backsolve-default", "backsolve-seminorm"):
        loose, tight = measured[way, 1e-3], measured[way, 1e-6]
        assert tight["error"] < 1e-4
        assert loose["error"] > tight["error"] > 0
        assert tight["backward_nfe"] > loose["backward_nfe"] > 0
        assert tight["nvjp"] > 0
        assert tight["seconds"] > 0
    assert outcome.report.stat().st_size > 10_000


@pytest.mark.julia
@pytest.mark.usefixtures("real_julia")
@pytest.mark.slow
@pytest.mark.parametrize("problem", ["spiral", "japanese-vowels"])
def test_every_way_finds_the_same_gradient_on_julia(tmp_path, problem):
    preset = dataclasses.replace(TINY, problem=problem, tolerances="1e-7", learning_rate=1e-3)
    preset = dataclasses.replace(preset, train_limit=32, batch_size=16, variants={})
    (row,) = run(tmp_path, preset=preset, backend="julia").results.rows
    assert [one["way"] for one in row["measurements"]] == list(WAYS)
    for one in row["measurements"]:
        assert one["failure"] == ""
        assert one["error"] < 1e-4


def test_a_finished_measurement_is_not_made_again(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, resume=True)
    assert again.results.rows == first.results.rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerances": "1e-3 tight"}, "could not convert"),
        ({"tolerances": ""}, "numbers between 0 and 1"),
        ({"tolerances": "1e-3 0"}, "numbers between 0 and 1"),
        ({"problem": "lorenz"}, "problem='lorenz'; there are acrobot"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(ArgumentError, match=message):
        run(tmp_path / "out", preset=dataclasses.replace(TINY, **changes))
    assert not (tmp_path / "out").exists()


def measured(way, tolerance, **changes):
    found = Measurement(way, tolerance, error=1e-4, backward_nfe=100, nvjp=120, seconds=0.01)
    return dataclasses.asdict(dataclasses.replace(found, **changes))


def test_the_table_has_means_and_ratios_and_says_what_failed():
    rows = [
        {
            "variant": "spiral",
            "backend": "julia",
            "seed": seed,
            "measurements": [
                measured("backsolve-seminorm", 1e-3, error=error),
                measured("gauss", 1e-3, seconds=0.005, accepted=7),
                measured("discrete", 1e-3, error=None, failure="too many steps"),
            ],
        }
        for seed, error in ((0, 1e-3), (1, 1e-5))
    ]
    section = quadrature_section("T", "a", rows, list(WAYS))
    (table,) = section.tables
    assert table.title == "spiral, on julia: means over 2 seeds"
    seminorm, gauss = table.rows
    assert seminorm[:2] == ("0.001: backsolve-seminorm", "1.0e-04")
    assert gauss[3:6] == ("100", "120", "7")
    assert (seminorm[-2:], gauss[-2:]) == (("10.0", "1.00"), ("5.0", "0.50"))
    assert table.notes[0] == "discrete at 0.001 failed 2 times: too many steps"
    assert len(section.pictures) == 1
