"""The report is one page that needs no other file, and its pictures show the runs."""

from __future__ import annotations

import base64
import re
import struct
from html.parser import HTMLParser

import pytest

from pysemi.experiments import reproduce
from tests.experiments.quiet import Quiet
from tests.experiments.test_reproduce import plan

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    outcome = reproduce(plan(out, seeds=1, command="reproduce toy --set 'a<b'"), Quiet())
    return out, outcome.report.read_text("utf-8")


def test_the_page_refers_to_nothing_outside_itself(report):
    _, html = report
    for address in re.findall(r'(?:src|href)="([^"]*)"', html):
        assert address.startswith("data:image/png;base64,")
    assert "<script" not in html
    assert "@import" not in html


def test_the_page_is_well_formed(report):
    open_tags = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(report[1])
    assert open_tags == []


def test_the_page_has_the_table_and_three_pictures(report):
    _, html = report
    assert "default\nBwd. NFE" in html
    assert "8.67 ± 1.60M" in html
    pictures = re.findall(r"base64,([^\"]+)", html)
    assert len(pictures) == 3
    for picture in pictures:
        data = base64.b64decode(picture)
        assert data.startswith(PNG)
        width, height = struct.unpack(">II", data[16:24])
        assert width > 400
        assert height > 200


def test_the_page_says_how_the_data_was_split(report):
    assert "<dt>split</dt><dd>by hand</dd>" in report[1]


def test_pictures_also_lie_beside_the_page(report):
    out, _ = report
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {"training.png", "evaluations.png", "rejections.png"}


def test_what_the_user_typed_is_escaped(report):
    assert "a&lt;b" in report[1]
