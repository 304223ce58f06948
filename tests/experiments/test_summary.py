"""The table in the paper's form says what the rows say."""

from __future__ import annotations

import pytest

from pysemi.experiments.paper import TABLE_1, PaperComparison
from pysemi.experiments.summary import Spread, paper_table, saving, step_table, summarise

PAPER = PaperComparison("Table 1", "Speech Commands", TABLE_1)


def row(norm, seed, metric, nfe, **changes):
    return {
        "norm": norm,
        "seed": seed,
        "backend": "torch",
        "rtol": 1e-3,
        "atol": 1e-6,
        "metric_name": "accuracy",
        "metric": metric,
        "forward_nfe": 100,
        "backward_nfe": nfe,
        "accepted": 30,
        "rejected": 10,
        "seconds": 2.0,
        **changes,
    }


ROWS = [
    row("default", 0, 0.90, 6000),
    row("seminorm", 0, 0.91, 2000),
    row("default", 1, 0.92, 8000),
    row("seminorm", 1, 0.91, 3000),
]


def test_means_and_deviations_are_over_the_seeds():
    default, seminorm = summarise(ROWS)
    assert default.metric.mean == pytest.approx(0.91)
    assert default.metric.std == pytest.approx(0.0141421, rel=1e-4)
    assert seminorm.backward_nfe.mean == 2500
    assert default.seeds == 2


def test_one_seed_has_no_deviation():
    assert Spread.of([3.0]).text() == "3.0"
    assert Spread.of([3.0, 5.0]).text() == "4.0 ± 1.4"


def test_the_saving_is_relative_to_the_default_norm():
    summaries = summarise(ROWS)
    assert saving(summaries, "seminorm") == pytest.approx(1 - 2500 / 7000)
    assert saving(summaries, "default") is None
    assert saving(summarise(ROWS[1:2]), "seminorm") is None


def test_the_papers_row_stands_below_ours():
    table = paper_table(ROWS, PAPER)
    ours, theirs = table.rows
    assert table.title == "RTOL 0.001, ATOL 1e-06: mean ± standard deviation over 2 seeds"
    assert (ours[0], theirs[0]) == ("pysemi, torch", "paper, Table 1")
    assert ours[1:] == ("91.0 ± 1.4", "7.00 ± 1.41k", "91.0 ± 0.0", "2.50 ± 0.71k")
    assert theirs[1:] == ("92.6 ± 0.4", "14.36 ± 1.09M", "92.5 ± 0.5", "8.67 ± 1.60M")
    assert table.notes == (
        "seminorm: 64% fewer backward evaluations than the default norm",
        "The paper's row was measured on Speech Commands.",
    )
    assert len(table.columns) == len(ours) == len(theirs)


def test_a_norm_that_costs_more_is_said_to():
    rows = [row("default", 0, 0.9, 1000), row("rms", 0, 0.9, 1500)]
    table = paper_table(rows, PAPER)
    assert table.notes[0] == "rms: 50% more backward evaluations than the default norm"
    assert table.rows[1][-2:] == ("–", "–")  # the paper has no such column


def test_without_a_row_of_the_paper_at_these_tolerances_ours_stands_alone():
    rows = [row("default", 0, 0.9, 1000, rtol=1e-2)]
    assert len(paper_table(rows, PAPER).rows) == 1
    assert len(paper_table(ROWS, None).rows) == 1


def test_the_papers_numbers_are_the_papers():
    assert TABLE_1[1e-5, 1e-8].backward_nfe["default"].mean == pytest.approx(77.95e6)
    assert TABLE_1[1e-4, 1e-7].metric["seminorm"].std == pytest.approx(0.005)
    assert set(TABLE_1) == {(1e-3, 1e-6), (1e-4, 1e-7), (1e-5, 1e-8)}


def test_the_step_table_gives_the_proportion_rejected():
    table = step_table(ROWS)
    assert table.rows[0][0] == "default"
    assert table.rows[0][3] == "25.0%"
