"""``pysemi reproduce all``, ``table-4``, ``figure-6`` and ``pysemi report``."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest

import pysemi.experiments
from pysemi.cli import main
from pysemi.errors import DataError
from tests.experiments.toy import TINY, TOY

PRESETS = {"tiny": dataclasses.replace(TINY, seeds=2, epochs=1)}
ONE = dataclasses.replace(TOY, name="one", title="The first", presets=PRESETS)
OTHER = dataclasses.replace(TOY, name="other", title="The other", presets=PRESETS)
UNLIKE = dataclasses.replace(TOY, name="unlike", presets={"huge": TINY})


def no_data(preset):
    raise DataError("there is no network")


@pytest.fixture
def experiments(monkeypatch):
    """Three toys in place of the real ones; one of them has other presets."""
    known = {experiment.name: experiment for experiment in (ONE, OTHER, UNLIKE)}
    monkeypatch.setattr(pysemi.experiments, "all_experiments", lambda: known)
    return known


ALL = ["reproduce", "all", "--preset", "tiny", "--backend", "torch"]


@pytest.fixture
def made(experiments, tmp_path, capsys):
    out = tmp_path / "results"
    assert main([*ALL, "--out", str(out)]) == 0
    return out, capsys.readouterr().out


def test_all_runs_what_has_the_preset_and_ends_with_one_report(made):
    out, shown = made
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["one-tiny-torch", "other-tiny-torch"]
    rows = json.loads((out / "one-tiny-torch" / "summary.json").read_text("utf-8"))["rows"]
    assert len(rows) == 4  # two norms, and the preset's two seeds
    page = (out / "report.html").read_text("utf-8")
    for title in ("The first", "The other", "(Table 4)", "(Figure 6)"):
        assert f"{title}</h2>" in page
    assert shown.rstrip().endswith("report.html")


def test_all_goes_on_where_an_experiment_cannot_be_run_and_says_so(experiments, tmp_path, capsys):
    experiments["one"] = dataclasses.replace(ONE, load=no_data)
    out = tmp_path / "results"
    assert main([*ALL, "--out", str(out)]) == 1
    errors = capsys.readouterr().err
    assert "1 of 2 experiments could not be run: one (there is no network)" in errors
    assert (out / "other-tiny-torch" / "report.html").exists()
    page = (out / "report.html").read_text("utf-8")
    assert "The other</h2>" in page
    assert "The first</h2>" not in page


def test_all_goes_on_where_it_was(made, capsys):
    out, shown = made
    assert main([*ALL, "--out", str(out)]) == 1
    assert "add --resume" in capsys.readouterr().err
    assert main([*ALL, "--out", str(out), "--resume"]) == 0
    assert capsys.readouterr().out == shown


def test_table_4_and_figure_6_are_made_of_recorded_runs(made, tmp_path, capsys):
    out, _ = made
    for name, words in (("table-4", "paper, HNN"), ("figure-6", "(1+2d+p)/(1+2d)")):
        assert main(["reproduce", name, "--from", str(out), "--out", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert words in shown
        assert "one, torch" in shown
        assert (tmp_path / f"{name}.html").stat().st_size > 1000


@pytest.mark.parametrize("name", ["table-4", "figure-6"])
def test_without_runs_there_is_nothing_to_make_them_of(name, tmp_path, capsys):
    assert main(["reproduce", name, "--from", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "holds no results" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_some_folders_is_a_page_a_text_and_a_table(made, tmp_path, capsys):
    out, _ = made
    page = tmp_path / "all" / "page.html"
    assert main(["report", str(out / "one-tiny-torch"), str(out), "--out", str(page)]) == 0
    assert "The other</h2>" in page.read_text("utf-8")
    assert "# The first" in page.with_suffix(".md").read_text("utf-8")
    with page.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
    assert (tmp_path / "all" / "page-figures" / "01-training.png").exists()
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "DIR"),
        (["nowhere"], 1, "nowhere is not a folder"),
        (["."], 1, "holds no results"),
        ([".", "--out", "page.pdf"], 2, "does not end in .html"),
    ],
)
def test_a_report_of_nothing_is_refused(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
