"""A file is the old one or the new one, never a part."""

from __future__ import annotations

import json
import os

import pytest

from pysemi.atomic import replacing, write_json, write_text


def test_a_file_is_replaced_by_its_new_content(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")
    write_text(path, "new é")
    assert path.read_text("utf-8") == "new é"


def test_a_failure_while_writing_leaves_the_old_content_and_no_rubbish(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_badly():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_badly()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_json_is_read_back_as_written(tmp_path):
    write_json(tmp_path / "file.json", {"a": [1, 2.5, None, "ü"]})
    assert json.loads((tmp_path / "file.json").read_text("utf-8")) == {"a": [1, 2.5, None, "ü"]}


def test_the_usual_permissions_apply(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "file.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o644
