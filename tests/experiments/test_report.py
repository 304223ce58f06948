"""Reports need no other file, and their tables and pictures show the runs."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import re
import shutil
import struct
from html.parser import HTMLParser

import pytest

from pysemi.errors import ResultsError
from pysemi.experiments import reproduce
from pysemi.experiments.recorded import further_sections
from pysemi.experiments.report import sections_of, write_csv, write_markdown, write_page
from pysemi.experiments.results import Results, find_results
from tests.experiments.quiet import Quiet
from tests.experiments.test_reproduce import plan
from tests.experiments.toy import TINY, TOY

PNG = b"\x89PNG\r\n\x1a\n"
TWO = dataclasses.replace(TINY, epochs=2, variants={"a": {"rtol": 1e-3}, "b": {"rtol": 1e-2}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "toy"
    reproduce(plan(out, seeds=1, preset=TWO, command="reproduce toy --set 'a<b'"), Quiet())
    return out


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def sections(folder):
    """As of two backends: there are two folders of the same experiment."""
    results = find_results([folder.parent])
    (found,) = results
    rows = [{**row, "backend": "julia", "bridge": "compiled"} for row in found.rows]
    both = [found, dataclasses.replace(found, backend="julia", rows=rows)]
    return [*sections_of(both, {"toy": TOY}), *further_sections(both)]


def pictures_in(html):
    found = [base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)", html)]
    for data in found:
        assert data.startswith(PNG)
        width, height = struct.unpack(">II", data[16:24])
        assert width > 400
        assert height > 200
    return found


def test_the_page_refers_to_nothing_outside_itself(page):
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("data:image/png;base64,", "#"))
    assert "<script" not in page
    assert "@import" not in page


def test_the_page_is_well_formed(folder, sections, tmp_path):
    for html in (
        (folder / "report.html").read_text("utf-8"),
        write_page(tmp_path / "both.html", sections).read_text("utf-8"),
    ):
        open_tags = []

        class Checker(HTMLParser):
            def __init__(self, open_tags):
                super().__init__()
                self.open_tags = open_tags

            def handle_starttag(self, tag, attrs):
                if tag not in ("meta", "img"):
                    self.open_tags.append(tag)

            def handle_endtag(self, tag):
                assert self.open_tags.pop() == tag

        Checker(open_tags).feed(html)
        assert open_tags == []


def test_the_page_has_the_tables_and_three_pictures(page):
    assert "default\nBwd. NFE" in page
    assert "8.67 ± 1.60M" in page
    assert len(pictures_in(page)) == 3


def test_the_page_says_how_it_was_made(page):
    assert "<dt>split</dt><dd>by hand</dd>" in page
    assert "<dt>seeds</dt><dd>0</dd>" in page
    assert "<code>pysemi reproduce toy --set &#39;a&lt;b&#39;</code>" in page


def test_both_backends_stand_in_one_section(sections):
    toy, table_4, figure_6 = sections
    assert [row[0] for row in toy.tables[0].rows] == [
        "a: pysemi, torch",
        "a: pysemi, julia",
        "a: paper, Table 1",
        "b: pysemi, torch",
        "b: pysemi, julia",
    ]
    assert {picture.name for picture in toy.pictures} == {
        f"{kind}-{backend}"
        for kind in ("training", "evaluations", "rejections")
        for backend in ("torch", "julia")
    }
    assert ("backend (julia)", "julia") in toy.facts
    assert len(toy.commands) == 2
    assert len(table_4.tables[0].rows) == 4
    assert len(figure_6.pictures) == 1


def test_the_page_of_several_sections_has_a_table_of_contents(sections, tmp_path):
    html = write_page(tmp_path / "all.html", sections).read_text("utf-8")
    for number, section in enumerate(sections, start=1):
        assert f'<a href="#part-{number}">{section.title}</a>' in html
        assert f'<h2 id="part-{number}">{section.title}</h2>' in html
    assert len(pictures_in(html)) == 7


def test_the_markdown_has_the_same_tables_and_its_pictures_beside_it(sections, tmp_path):
    text = write_markdown(tmp_path / "all.md", sections).read_text("utf-8")
    for section in sections:
        for table in section.tables:
            for row in table.rows:
                assert f"\n| {' | '.join(row)} |\n" in text
    names = re.findall(r"\]\(([^)]+)\)", text)
    assert len(names) == 7
    for name in names:
        assert (tmp_path / name).read_bytes().startswith(PNG)
    assert "\n\n\n" not in text


def test_the_csv_has_a_line_for_each_run(folder, tmp_path):
    results = find_results([folder])
    path = write_csv(tmp_path / "all.csv", results)
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(results[0].rows) == 4
    for line, row in zip(lines, results[0].rows, strict=True):
        assert int(line["backward_nfe"]) == row["backward_nfe"]
        assert float(line["settings.rtol"]) == row["rtol"]


def test_results_are_read_back_as_they_were_written(folder):
    (found,) = find_results([folder, folder.parent])  # named twice, found once
    assert found.summary() == json.loads((folder / "summary.json").read_text("utf-8"))
    for run in found.runs():
        assert run.directory.result == run.row


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ResultsError, match="holds no results"):
        find_results([tmp_path])
    with pytest.raises(ResultsError, match="is not a folder"):
        find_results([tmp_path / "nowhere"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"experiment": "toy"}', '{"rows": 3}'])
def test_a_summary_that_is_not_ours_is_refused(tmp_path, text):
    (tmp_path / "summary.json").write_text(text, "utf-8")
    with pytest.raises(ResultsError, match="not what `pysemi reproduce` writes"):
        Results.read(tmp_path)


def test_results_of_an_unknown_experiment_are_refused(folder):
    with pytest.raises(ResultsError, match="'toy', which is not known"):
        sections_of(find_results([folder]), {})


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copied")
    (results,) = find_results([tmp_path / "copied"])
    return results


def test_a_run_that_is_gone_is_named_with_what_makes_it_again(copied):
    shutil.rmtree(copied.path / copied.folders[1])
    with pytest.raises(ResultsError, match=r"a/seminorm-seed0, whose row is in .*--resume"):
        sections_of([copied], {"toy": TOY})


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 rubbish", None])
def test_solves_that_cannot_be_read_are_named(copied, damage):
    path = copied.path / copied.folders[0] / "solves" / "epoch-0002.npz"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(ResultsError, match=r"epoch-0002\.npz cannot be read"):
        sections_of([copied], {"toy": TOY})
