"""Table 4 and Figure 6 are made of recorded rows alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysemi.errors import ResultsError
from pysemi.experiments.recorded import figure_6, further_sections, table_4
from pysemi.experiments.results import Results


def results(*rows):
    return Results(Path(), "toy", "quick", "torch", "reproduce toy", {}, {}, rows, ())


def row(arm, seed=0, **changes):
    return {
        "experiment": "toy",
        "preset": "quick",
        "variant": "",
        "arm": arm,
        "backend": "torch",
        "seed": seed,
        "metric": 0.5,
        "forward_nfe": 10,
        "backward_nfe": 1000 if arm == "default" else 600,
        "accepted": 100,
        "rejected": 50,
        "test_accepted": 30 if arm == "default" else 20,
        "test_rejected": 10 if arm == "default" else 0,
        "seconds": 1.0,
        "state_size": 20,
        "parameter_size": 410,
        "size_ratio": 11.0,
        **changes,
    }


BOTH = results(row("default"), row("seminorm"))


def test_table_4_counts_the_steps_of_the_test_pass():
    ours, theirs = table_4([BOTH]).tables
    assert ours.rows == (("toy, torch", "10", "0", "30", "20", "25.0%", "0.0%"),)
    assert len(theirs.rows) == 8
    assert theirs.rows[-1] == (
        "paper, HNN",
        "110 ± 0",
        "0 ± 0",
        "180 ± 0",
        "160 ± 0",
        "37.9%",
        "0.0%",
    )


def test_figure_6_has_the_ratio_and_the_saving():
    section = figure_6([BOTH])
    assert section.tables[0].rows == (("toy, torch", "20", "410", "11", "40%"),)
    assert len(section.pictures) == 1


def test_variants_backends_and_presets_are_told_apart():
    rows = [
        row(arm, variant=variant, backend=backend)
        for variant in ("a", "b")
        for backend in ("torch", "julia")
        for arm in ("default", "seminorm")
    ]
    names = [line[0] for line in table_4([results(*rows)]).tables[0].rows]
    assert names == ["toy, a, torch", "toy, a, julia", "toy, b, torch", "toy, b, julia"]
    full = [{**one, "preset": "full"} for one in BOTH.rows]
    names = [line[0] for line in table_4([BOTH, results(*full)]).tables[0].rows]
    assert names == ["toy, quick, torch", "toy, full, torch"]


def test_a_run_without_its_partner_is_left_out():
    lonely = results(row("default", variant="alone"), *BOTH.rows, row("rms"))
    assert len(table_4([lonely]).tables[0].rows) == 1


def test_where_nothing_can_be_compared_there_is_nothing_to_show():
    alone = results(row("seminorm"))
    with pytest.raises(ResultsError, match="make some first"):
        table_4([alone])
    assert further_sections([alone]) == []
    assert len(further_sections([BOTH])) == 2
