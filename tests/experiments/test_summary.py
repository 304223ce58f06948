"""The tables in the paper's form say what the rows say."""

from __future__ import annotations

import pytest

from pysemi.experiments.paper import ACROBOT, CNF_CIFAR10, CNF_MNIST, SPEECH_COMMANDS, TABLE_4
from pysemi.experiments.summary import Spread, paper_table, saving, step_table, summarise


def row(arm, seed, metric, nfe, **changes):
    settings = {"rtol": 1e-3, "atol": 1e-6, **changes.pop("settings", {})}
    return {
        "arm": arm,
        "variant": "",
        "seed": seed,
        "backend": "torch",
        "settings": settings,
        "metric_name": "accuracy",
        "metric": metric,
        "parameters": 1234,
        "forward_nfe": 100,
        "backward_nfe": nfe,
        "accepted": 30,
        "rejected": 10,
        "test_accepted": 6,
        "test_rejected": 2,
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
    table = paper_table(ROWS, SPEECH_COMMANDS)
    ours, theirs = table.rows
    assert table.title == "Results, mean ± standard deviation over 2 seeds"
    assert (ours[0], theirs[0]) == ("pysemi, torch", "paper, Table 1")
    assert ours[1:] == ("1,234", "91.0 ± 1.4", "7.00 ± 1.41k", "91.0 ± 0.0", "2.50 ± 0.71k", "64%")
    assert theirs[1:] == (
        "88,940",
        "92.6 ± 0.4",
        "14.36 ± 1.09M",
        "92.5 ± 0.5",
        "8.67 ± 1.60M",
        "40%",
    )
    assert table.notes[1] == "The paper's rows were measured on Speech Commands (5 repeats)."
    assert len(table.columns) == len(ours) == len(theirs)


def test_each_variant_has_its_own_rows_and_the_papers():
    rows = [
        *ROWS,
        *(
            {**one, "variant": "tight", "settings": {"rtol": 1e-5, "atol": 1e-8}, "backend": where}
            for where in ("torch", "julia")
            for one in ROWS[:2]
        ),
    ]
    table = paper_table(rows, SPEECH_COMMANDS)
    assert [line[0] for line in table.rows] == [
        "pysemi, torch",
        "paper, Table 1",
        "tight: pysemi, torch",
        "tight: pysemi, julia",
        "tight: paper, Table 1",
    ]
    assert table.rows[-1][-1] == "62%"  # of the paper's abstract


def test_where_some_have_fewer_seeds_than_others_the_title_says_so():
    more = [*ROWS, row("default", 2, 0.9, 7000), row("seminorm", 2, 0.9, 2500)]
    mixed = [*more, *({**one, "backend": "julia"} for one in ROWS)]
    assert paper_table(mixed, None).title.endswith("over 2 to 3 seeds")
    assert paper_table(more, None).title.endswith("over 3 seeds")


def test_a_norm_that_costs_more_is_said_to():
    rows = [row("default", 0, 0.9, 1000), row("rms", 0, 0.9, 1500)]
    table = paper_table(rows, SPEECH_COMMANDS)
    assert table.rows[0][-1] == "-50%"
    assert table.rows[1][-3:] == ("–", "–", "–")  # the paper has no such column


def test_an_arm_that_was_not_run_leaves_a_gap():
    rows = [row("default", 0, 0.9, 1000), row("seminorm", 0, 0.9, 500, backend="julia")]
    torch_line, julia_line = paper_table(rows, None).rows
    assert torch_line[1:] == ("1,234", "90.0", "1.00k", "–", "–", "–")
    assert julia_line[1:] == ("1,234", "–", "–", "90.0", "0.50k", "–")


def test_where_the_paper_has_other_settings_its_rows_stand_at_the_end():
    rows = [row("default", 0, 2.4, 1000, settings={"hidden": 8}, metric_name="bits/dim")]
    ours, *theirs = paper_table(rows, CNF_MNIST).rows
    assert ours[0] == "pysemi, torch"
    assert [line[0] for line in theirs] == [
        f"paper, Table 2, hidden = {hidden}" for hidden in (32, 64, 128)
    ]
    assert theirs[0][1:4] == ("281,928", "0.9968 ± 0.0020", "41.50 ± 2.35M")


def test_without_a_table_of_the_paper_ours_stands_alone():
    assert len(paper_table(ROWS, None).rows) == 1


def test_the_papers_numbers_are_the_papers():
    tight = SPEECH_COMMANDS.row({"rtol": 1e-5, "atol": 1e-8})
    assert tight.backward_nfe["default"].mean == pytest.approx(77.95e6)
    middle = SPEECH_COMMANDS.row({"rtol": 1e-4, "atol": 1e-7})
    assert middle.metric["seminorm"].std == pytest.approx(0.005)
    assert len(SPEECH_COMMANDS.rows) == 3
    assert CNF_MNIST.row({"hidden": 64}).metric["seminorm"].mean == pytest.approx(0.9603)
    assert CNF_CIFAR10.row({"hidden": 64}).backward_nfe["default"].mean == pytest.approx(41.65e6)
    acrobot = ACROBOT.row({})
    assert acrobot.metric["default"].mean == pytest.approx(1.247e-4)
    assert acrobot.backward_nfe["seminorm"].mean == pytest.approx(26.55e4)


def test_the_papers_savings_are_those_of_its_text():
    """ "40%–62% fewer" for neural CDEs, "43% fewer" for the Hamiltonian network."""
    savings = [
        1 - found.backward_nfe["seminorm"].mean / found.backward_nfe["default"].mean
        for found in (*SPEECH_COMMANDS.rows.values(), *ACROBOT.rows.values())
    ]
    assert [round(100 * one) for one in savings] == [40, 58, 62, 43]


def test_the_papers_table_4_has_the_proportions_that_it_prints():
    printed = {
        "NCDE (small)": (3.63, 7.25),
        "NCDE (medium)": (10.76, 4.97),
        "NCDE (large)": (27.43, 11.87),
        "CIFAR-10": (31.96, 28.95),
        "MNIST (d_h = 32)": (20.95, 18.45),
        "MNIST (d_h = 128)": (25.07, 22.83),
        "HNN": (37.93, 0.0),
    }
    for name, proportions in printed.items():
        steps = TABLE_4[name]
        for norm, proportion in zip(("default", "seminorm"), proportions, strict=True):
            rejected, accepted = steps.rejected[norm].mean, steps.accepted[norm].mean
            assert 100 * rejected / (rejected + accepted) == pytest.approx(proportion, abs=0.005)


def test_the_step_table_gives_the_proportion_rejected():
    table = step_table(ROWS)
    assert table.rows[0][0] == "default, torch"
    assert table.rows[0][3] == "25.0%"
