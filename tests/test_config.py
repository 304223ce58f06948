"""The configuration file: where it is, what it keeps, and that it is never half written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pysemi import config
from pysemi.config import JuliaConfig, config_dir, forget_julia, read_julia, write_julia
from pysemi.errors import ConfigurationError

JULIA = JuliaConfig(
    Path("/usr/local/julia/bin/julia"), Path("/usr/local/project"), Path("/usr/local/depot")
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "config"
    monkeypatch.setenv("PYSEMI_CONFIG_DIR", str(folder))
    return folder


def test_nothing_is_configured_where_there_is_no_file(folder):
    assert read_julia() is None
    assert not folder.exists()


@pytest.mark.parametrize("depot", [None, Path("/a depot/ü")])
def test_what_was_written_is_read_back(folder, depot):
    julia = JuliaConfig(Path("/with space/β/julia"), Path("/p/x"), depot)
    assert write_julia(julia) == folder / "config.json"
    assert read_julia() == julia


def test_a_path_that_is_not_unicode_is_read_back(folder):
    julia = JuliaConfig(Path(os.fsdecode(b"/j\xff/julia")), Path("/p"))
    write_julia(julia)
    assert read_julia() == julia


def test_a_later_choice_replaces_an_earlier_one_entirely(folder):
    write_julia(JULIA)
    later = JuliaConfig(Path("/b/julia"), Path("/b/p"), None)
    write_julia(later)
    assert read_julia() == later


def test_keys_of_a_later_pysemi_are_kept(folder):
    folder.mkdir()
    content = {"theme": {"a": [1]}, "julia": {"threads": 4}}
    content["julia"] |= JuliaConfig(Path("/x"), Path("/y")).as_dict()
    (folder / "config.json").write_text(json.dumps(content))
    write_julia(JULIA)
    written = json.loads((folder / "config.json").read_text())
    assert written["theme"] == {"a": [1]}
    assert written["julia"]["threads"] == 4
    assert written["julia"]["executable"] == "/usr/local/julia/bin/julia"
    assert forget_julia()
    assert json.loads((folder / "config.json").read_text()) == {"theme": {"a": [1]}}


def test_forgetting_twice_is_no_error(folder):
    write_julia(JULIA)
    assert forget_julia()
    assert not forget_julia()
    assert read_julia() is None


def test_forgetting_without_a_file_makes_none(folder):
    assert not forget_julia()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b'{"julia": {"executable"', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", r"it holds \[\]"),
        (b'{"julia": "/usr/bin/julia"}', "not an object"),
        (b'{"julia": {}}', r"julia\.executable"),
        (b'{"julia": {"executable": "julia", "project": "/p"}}', "absolute"),
        (b'{"julia": {"executable": "/a\\u0000b", "project": "/p"}}', "absolute"),
        (b'{"julia": {"executable": "/julia", "project": 3}}', r"julia\.project"),
        (b'{"julia": {"executable": "/julia", "project": "/p", "depot": ""}}', r"julia\.depot"),
    ],
)
def test_a_corrupt_file_is_an_error_that_names_it_and_the_way_out(folder, content, says):
    folder.mkdir()
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_julia()
    assert str(folder / "config.json") in str(caught.value)
    assert "pysemi julia use" in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]"])
def test_a_corrupt_file_is_never_overwritten(folder, content):
    folder.mkdir()
    (folder / "config.json").write_bytes(content)
    for change in (lambda: write_julia(JULIA), forget_julia):
        with pytest.raises(ConfigurationError):
            change()
    assert (folder / "config.json").read_bytes() == content


def test_a_folder_that_is_a_file_is_an_error(folder):
    folder.write_text("")
    for action in (read_julia, forget_julia, lambda: write_julia(JULIA), config.check_writable):
        with pytest.raises(ConfigurationError, match="PYSEMI_CONFIG_DIR") as caught:
            action()
        assert str(folder) in str(caught.value)


def test_a_file_that_is_a_folder_is_an_error(folder):
    (folder / "config.json").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_julia()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs Linux's /sys")
def test_a_folder_that_cannot_be_made_is_an_error(monkeypatch):
    # Nobody can make a folder there, not even root.
    monkeypatch.setenv("PYSEMI_CONFIG_DIR", "/sys/kernel/pysemi")
    for action in (lambda: write_julia(JULIA), config.check_writable):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            action()
    assert read_julia() is None


def test_a_full_disk_leaves_the_old_file(folder, monkeypatch):
    write_julia(JULIA)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(config.os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        write_julia(JuliaConfig(Path("/b"), Path("/c")))
    assert read_julia() == JULIA
    assert [file.name for file in folder.iterdir()] == ["config.json"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(errno.EIO, "I/O error")])
def test_a_write_that_fails_before_the_replacement_leaves_the_old_file(
    folder, monkeypatch, interruption
):
    write_julia(JULIA)

    def fail(*_):
        raise interruption

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((ConfigurationError, KeyboardInterrupt)):
        write_julia(JuliaConfig(Path("/b"), Path("/c")))
    assert read_julia() == JULIA
    assert [file.name for file in folder.iterdir()] == ["config.json"]


def test_a_process_killed_before_the_replacement_leaves_the_old_file(folder):
    write_julia(JULIA)
    program = (
        "import os, pathlib, signal\n"
        "from pysemi.config import JuliaConfig, write_julia\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_julia(JuliaConfig(pathlib.Path('/b'), pathlib.Path('/c')))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert read_julia() == JULIA


def test_the_file_may_be_a_link_into_another_folder(folder, tmp_path):
    target = tmp_path / "dotfiles" / "pysemi.json"
    target.parent.mkdir()
    target.write_text("{}")
    folder.mkdir()
    (folder / "config.json").symlink_to(target)
    write_julia(JULIA)
    assert (folder / "config.json").is_symlink()
    assert json.loads(target.read_text())["julia"]["project"] == "/usr/local/project"


def test_a_loop_of_links_is_an_error(folder):
    folder.mkdir()
    (folder / "config.json").symlink_to(folder / "config.json")
    with pytest.raises(ConfigurationError):
        write_julia(JULIA)


def test_the_file_follows_the_umask(folder):
    old = os.umask(0o027)
    try:
        path = write_julia(JULIA)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_folder_is_the_one_typer_would_choose(monkeypatch):
    monkeypatch.delenv("PYSEMI_CONFIG_DIR", raising=False)
    for value in (None, "/x y"):
        if value is None:
            monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert str(config_dir()) == typer.get_app_dir("pysemi")


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is Linux's")
@pytest.mark.parametrize("value", ["", "relative"])
def test_a_relative_xdg_folder_is_ignored(monkeypatch, value):
    monkeypatch.delenv("PYSEMI_CONFIG_DIR", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", value)
    monkeypatch.setenv("HOME", "/home/someone")
    assert config_dir() == Path("/home/someone/.config/pysemi")


def test_a_relative_folder_is_made_absolute_and_a_tilde_expanded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYSEMI_CONFIG_DIR", "here")
    assert config_dir() == tmp_path / "here"
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("PYSEMI_CONFIG_DIR", "~/there")
    assert config_dir() == Path("/home/someone/there")


def test_without_a_home_nothing_is_configured_and_writing_says_what_to_set(monkeypatch):
    for variable in ("PYSEMI_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    # As for a number that /etc/passwd does not know: "~" stays what it is.
    monkeypatch.setattr(config.os.path, "expanduser", lambda path: path)
    assert read_julia() is None
    assert not forget_julia()
    with pytest.raises(ConfigurationError, match="PYSEMI_CONFIG_DIR"):
        write_julia(JULIA)
    with pytest.raises(ConfigurationError, match="--project"):
        config.data_dir()


def test_importing_pysemi_imports_nothing_of_julia():
    program = (
        "import sys, pysemi, pysemi.config, pysemi.cli, pysemi.doctor, pysemi.runtime.install\n"
        "print({'juliacall', 'juliapkg', 'diffeqpy'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.strip() == "set()", ended.stderr
