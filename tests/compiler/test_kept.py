"""Compilations on disk: what comes back is what was written, and what is not whole is absent."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pysemi import kept
from pysemi.compiler import making
from pysemi.compiler.compilation import Subject
from pysemi.compiler.compiled import (
    compile_event,
    compile_field,
    distrust,
    forget_compilations,
)
from pysemi.compiler.untranslatable import Untranslatable
from pysemi.compiler.written import parse, write
from pysemi.state import StateLayout
from tests.compiler.models import MODELS, build
from tests.compiler.operator_samples import samples

SAMPLED = [
    *("gather", "masked_fill", "cumsum", "sort", "linalg.solve", "clamp", "amax"),
    *("nn.functional.conv1d", "nn.functional.grid_sample"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("PYSEMI_COMPILATION_CACHE", "on")
    monkeypatch.setenv("PYSEMI_CACHE_DIR", str(tmp_path / "cache"))
    forget_compilations()
    yield tmp_path / "cache" / "compilations"
    forget_compilations()


def compile_(func, y=None, params=()):
    y = torch.linspace(-1, 1, 6).view(3, 2) if y is None else y
    layout = StateLayout.of(y)
    return compile_field(func, layout, torch.tensor(0.5), layout.flatten(y), params)[0]


def again(*arguments):
    """As the next process has it."""
    forget_compilations()
    return compile_(*arguments)


def files(cache):
    return sorted(cache.iterdir()) if cache.is_dir() else []


class Scaled(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.scale = scale

    def forward(self, t, y):
        return self.scale * self.layer(y)


def assert_equal(one, other):
    assert one == other
    assert one.tape.identity == other.tape.identity
    assert one.tape.listing == other.tape.listing
    assert one.tape.nbytes == other.tape.nbytes
    assert other.tape.identity[0] == str(other.tape)
    for mine, theirs in zip(one.tape.buffers, other.tape.buffers, strict=True):
        assert (mine.value is None) == (theirs.value is None)
        if mine.value is not None:
            assert mine.value.shape == theirs.value.shape
            assert mine.value.dtype == theirs.value.dtype


class TestRoundTrip:
    """What comes back equals what was made."""

    @pytest.mark.parametrize("name", MODELS)
    def test_of_each_model(self, name):
        model = build(name, torch.float32)
        made = compile_(model.field, model.y, model.params)
        found = again(model.field, model.y, model.params)
        assert not made.is_loaded
        assert found.is_loaded
        assert_equal(made, found)

    @pytest.mark.parametrize("name", ["perceptron-tanh", "cde-cubic", "symplectic-1"])
    def test_to_what_is_compiled_anew(self, name, monkeypatch):
        model = build(name, torch.float32)
        compile_(model.field, model.y, model.params)
        found = again(model.field, model.y, model.params)
        monkeypatch.setenv("PYSEMI_COMPILATION_CACHE", "off")
        anew = again(model.field, model.y, model.params)
        assert found.is_loaded
        assert not anew.is_loaded
        assert_equal(anew, found)

    @pytest.mark.parametrize("name", SAMPLED)
    def test_of_operators(self, name):
        count = 0
        for model in samples(name, torch.float64, 2):
            with contextlib.suppress(Untranslatable):
                made = compile_(model.field, model.y, model.params)
                subject = Subject("field", model.field, lambda t, y: y, model.params)
                found = parse(write(made), subject, subject.inventory())
                assert_equal(made, found)
                count += 1
        assert count

    def test_of_an_event_function(self):
        y = torch.ones(3)
        point = (StateLayout.of(y), torch.tensor(0.0), y)
        made, _ = compile_event(lambda t, y: y[0] - 0.5, *point)
        forget_compilations()
        found, _ = compile_event(lambda t, y: y[0] - 0.5, *point)
        assert found.kind == "event"
        assert found.is_loaded  # on another line, which makes no difference
        assert_equal(made, found)
        assert not compile_(lambda t, y: y[0] - 0.5, y).is_loaded  # the same code, for a field

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_of_constants_bit_for_bit(self, dtype):
        small = torch.finfo(dtype).tiny / 8
        numbers = [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, small, -small, 0.1]

        def field(t, y):
            return y * torch.tensor(numbers, dtype=dtype)

        y = torch.ones(8, dtype=dtype)
        made, found = compile_(field, y), again(field, y)
        assert found.is_loaded
        assert len(made.tape.of_role("constant")) == 1
        assert made.tape.identity[1] == found.tape.identity[1]
        back = found.tape.of_role("constant")[0].value.numpy().tobytes()
        assert back == torch.tensor(numbers, dtype=dtype).numpy().tobytes()


class TestFiles:
    """Whatever becomes of a file, it is used as it was written or not at all."""

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: b"",
            lambda data: data[: len(data) // 2],
            lambda data: data[:-1],
            lambda data: data + b" ",
            lambda data: data.replace(b"tanh", b"sinh"),
            lambda data: b"\xff" + data,
            lambda data: data.partition(b"\n")[2],
            lambda data: b'{"kind": "field"}',
            lambda data: os.urandom(500),
        ],
    )
    def test_what_is_damaged_is_replaced(self, cache, damage):
        def field(t, y):
            return torch.tanh(y)

        made = compile_(field)
        (path,) = files(cache)
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        assert not again(field).is_loaded
        assert path.read_bytes() == whole
        found = again(field)
        assert found.is_loaded
        assert_equal(made, found)

    def test_another_s_file_is_not_used(self, cache):
        one, other = compile_(lambda t, y: y.sin()), compile_(lambda t, y: y.cos())
        (cache / f"{one.name}.json").write_bytes((cache / f"{other.name}.json").read_bytes())
        assert kept.read(one.name) is None
        assert kept.read(other.name) is not None

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "null",
            "[" * 100_000,
            "{}",
            '{"kind": "field", "sources": [7], "params": [], "text": "", "buffers": [], "tape": 0}',
            '{"kind": "event", "sources": [], "params": [], "text": "", "buffers": [], "tape": 0}',
        ],
    )
    def test_what_does_not_fit_is_not_used(self, content):
        field = Scaled()
        name = compile_(field).name
        kept.write(name, content)
        assert kept.read(name) == content
        assert not again(field).is_loaded
        assert again(field).is_loaded

    @pytest.mark.parametrize(
        "program",
        [
            "run(`ls`)",
            'open(\\"file\\")',
            "Base.exit(x1)",
            "Main",
            "exit",
            ":a",
            "@eval x1",
            "x1; v1 = Core; x1",
            "ccall(x1, Cvoid, x1)",
            "x1[1]",
            "Ptr{x1}(x1)",
            "$x1",
        ],
    )
    def test_code_that_is_not_arithmetic_is_not_used(self, program):
        def field(t, y):
            return torch.tanh(y)

        name = compile_(field).name
        content = kept.read(name)
        for harmless in (
            "tanh(x1) + sinh(x1)",
            "v1 = x1 * Float32(1.0e-5); ifelse(v1 <= Inf, v1, -v1)",
        ):
            kept.write(name, content.replace(":: tanh(x1)", f":: {harmless}"))
            assert again(field).is_loaded
        kept.write(name, content.replace(":: tanh(x1)", f":: {program}"))
        assert kept.read(name) != content
        assert not again(field).is_loaded

    def test_the_tape_of_other_shapes_is_not_used(self):
        field = Scaled()
        wide = compile_(field, torch.ones(3, 2), tuple(field.parameters()))
        narrow = compile_(field, torch.ones(3, 2), (field.layer.bias,))
        kept.write(narrow.name, kept.read(wide.name))
        assert not again(field, torch.ones(3, 2), (field.layer.bias,)).is_loaded

    def test_writers_and_readers_at_once_see_whole_files(self):
        contents = {str(n) * 50_000 for n in range(4)}
        seen, end = set(), time.monotonic() + 1.0

        def use(content):
            while time.monotonic() < end:
                kept.write("shared", content)
                seen.add(kept.read("shared"))

        threads = [threading.Thread(target=use, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen <= contents
        assert [path.name for path in files(kept.folder())] == ["shared.json"]

    def test_a_folder_that_cannot_be_made_keeps_nothing(self, cache):
        cache.parent.mkdir()
        cache.write_text("")
        field = Scaled()
        assert not compile_(field).is_loaded
        assert not again(field).is_loaded
        assert kept.kept_compilations().count == 0

    def test_a_full_disk_keeps_nothing(self, cache, monkeypatch):
        field = Scaled()

        def full(*_arguments, **_options):
            raise OSError(errno.ENOSPC, "no space")

        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.write_text", full)
            compile_(field)
        assert files(cache) == []
        assert not again(field).is_loaded

    def test_a_folder_that_can_only_be_read_is_read(self, monkeypatch):
        field = Scaled()
        compile_(field)

        def refused(*_arguments, **_options):
            raise PermissionError(errno.EACCES, "no right")

        monkeypatch.setattr("os.utime", refused)
        monkeypatch.setattr("tempfile.mkstemp", refused)
        assert again(field).is_loaded
        assert not compile_(Scaled(2.0)).is_loaded

    def test_those_used_last_stay(self, cache, monkeypatch):
        monkeypatch.setattr(kept, "MOST_KEPT", 3)
        for age, name in enumerate("abc"):
            kept.write(name, name)
            os.utime(cache / f"{name}.json", (100 + age, 100 + age))
        assert kept.read("a") == "a"  # and so b is the oldest
        kept.write("d", "d")
        assert [path.stem for path in files(cache)] == ["a", "c", "d"]

    def test_what_is_very_large_is_not_kept(self, cache, monkeypatch):
        monkeypatch.setattr(kept, "LARGEST", 100)
        assert compile_(Scaled()).name is not None
        assert files(cache) == []

    @pytest.mark.parametrize("value", ["off", "0", "no", "OFF"])
    def test_it_can_be_switched_off(self, cache, value, monkeypatch):
        compile_(Scaled())
        monkeypatch.setenv("PYSEMI_COMPILATION_CACHE", value)
        assert kept.folder() is None
        assert kept.kept_compilations() is None
        assert kept.clear_compilations() is None
        assert not again(Scaled()).is_loaded
        assert len(files(cache)) == 1


class TestNames:
    """What has the same name, and what has another or none."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda f: setattr(f, "scale", 2.0),
            lambda f: setattr(f, "scale", 1),
            lambda f: setattr(f, "scale", True),
            lambda f: setattr(f, "more", None),
            lambda f: setattr(f, "layer", nn.Sequential(f.layer)),
            lambda f: f.layer.weight.requires_grad_(False),
            lambda f: setattr(f.layer, "bias", None),
            lambda f: f.eval(),
            lambda f: setattr(f, "forward", lambda t, y: y),
            lambda f: setattr(f.layer.weight, "gain", 2.0),
            lambda f: setattr(f.layer, "weight", nn.Parameter(torch.eye(2).t())),
        ],
    )
    def test_a_changed_field_has_another(self, change):
        field = Scaled()
        before = compile_(field)
        change(field)
        after = again(field)
        assert not after.is_loaded
        assert after.name not in (None, before.name)

    def test_other_weights_have_the_same(self):
        compile_(Scaled())
        assert again(Scaled()).is_loaded

    def test_shapes_dtypes_and_gradients_have_others(self):
        field, double = Scaled(), Scaled().double()
        bias = (field.layer.bias,)
        made = [
            compile_(field, torch.ones(3, 2)),
            compile_(field, torch.ones(4, 2)),
            compile_(double, torch.ones(3, 2, dtype=torch.float64)),
            compile_(field, torch.ones(3, 2), None),
            compile_(field, torch.ones(3, 2), bias),
            compile_(field, torch.ones(3, 2), (*bias, field.layer.weight)),
            compile_(field, torch.ones(3, 2), (field.layer.weight, *bias)),
        ]
        assert len({each.name for each in made} - {None}) == len(made)

    def test_no_two_fields_share_one(self):
        class Held(nn.Module):
            def __init__(self, *held):
                super().__init__()
                self.held = held

            def forward(self, t, y):
                return y * 1.0

        shared = [1.0]
        values = [
            *(1, 1.0, True, "1", b"1", None, 0.0, -0.0, float("nan"), 1j, ()),
            *(("ab", "c"), ("a", "bc"), ("abc",), (("a",), "b"), ("a", ("b",)), ["a", "b"]),
            *([shared, shared], [[1.0], [1.0]], {"a": 1}, {"a": "1"}, {1: "a"}, {(1, 2): "a"}),
            *(torch.float32, "torch.float32", slice(1, 2), slice(1, 2.0), range(3), ..., "s1:1"),
            *(torch.sin, torch.cos, torch.Tensor.sin, len, nn.Tanh(), nn.ReLU(), nn.Tanh),
        ]
        names = [compile_(Held(value)).name for value in values]
        names += [
            compile_(func).name
            for func in (
                lambda t, y: y * 1,
                lambda t, y: y * 1.0,
                lambda t, y: y * True,
                lambda t, y: y + 0.0,
                lambda t, y: y + -0.0,
                lambda t, y: y + 0,
                lambda t, y: y * len({1, 2}),
                lambda t, y: y * (3 in {1, 2}),
                lambda t, y: y * (3 in {1, 2.0}),
                lambda t, y, z=1: y * z,
                lambda t, y, z=1.0: y * z,
                lambda t, y, *, z=1.0: y * z,
            )
        ]
        assert None not in names
        assert len(set(names)) == len(names)

    def test_lines_and_files_make_no_difference(self):
        names = set()
        for file in ("<one>", "<other>"):
            names_of = {"__name__": "__main__", "torch": torch}
            lines = "\n" * len(file)
            exec(compile(f"{lines}field = lambda t, y: torch.sin(y)", file, "exec"), names_of)
            names.add(compile_(names_of["field"]).name)
            forget_compilations()
        assert len(names - {None}) == 1

    @pytest.mark.parametrize("setting", ["default", "deterministic", "autocast", "fastpath"])
    def test_torch_s_settings_make_a_difference(self, setting):
        before = compile_(Scaled())
        with contextlib.ExitStack() as stack:
            if setting == "default":
                torch.set_default_dtype(torch.float64)
                stack.callback(torch.set_default_dtype, torch.float32)
            elif setting == "deterministic":
                torch.use_deterministic_algorithms(True)
                stack.callback(torch.use_deterministic_algorithms, False)
            elif setting == "fastpath":
                torch.backends.mha.set_fastpath_enabled(False)
                stack.callback(torch.backends.mha.set_fastpath_enabled, True)
            else:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            forget_compilations()
            with contextlib.suppress(Untranslatable):
                assert compile_(Scaled()).name not in (None, before.name)
        assert again(Scaled()).name == before.name

    def test_the_compiler_s_own_source_makes_a_difference(self, monkeypatch):
        from pysemi.compiler import surroundings

        before = compile_(Scaled())
        monkeypatch.setattr(surroundings, "_compiler", lambda: b"another")
        assert again(Scaled()).name != before.name

    def test_what_runs_in_place_of_torch_s_own_makes_a_difference(self, monkeypatch):
        def field(t, y):
            return torch.nn.functional.softsign(y)

        before = compile_(field)
        monkeypatch.setattr(torch.nn.functional, "softsign", lambda y: 2 * y)
        after = again(field)
        assert not after.is_loaded
        assert str(after.tape) != str(before.tape)


class Locked:
    def __init__(self):
        self.lock = threading.Lock()


class Nothing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def executed(text, **names):
    names = {"torch": torch, **names}
    exec(text, names)
    return names["field"]


class TestUnstorable:
    """What another process could not know again is kept in memory only."""

    @pytest.mark.parametrize(
        "field",
        [
            executed("field = lambda t, y: y if odd else -y", odd=Locked()),
            executed("field = lambda t, y: y if odd else -y", odd=threading.Lock()),
            executed("import time\nfield = lambda t, y: y * (time.time() > 0)"),
            executed("import os\nfield = lambda t, y: y * len(os.environ.get('HOME', ''))"),
            executed("import os\nfield = lambda t, y: y * len(os.getcwd())"),
            executed("import random\nfield = lambda t, y: y * (random.random() < 2)"),
            executed("import random\nfield = lambda t, y: y * (random.uniform(1, 2) < 3)"),
            executed("import datetime\nfield = lambda t, y: y * datetime.datetime.now().year"),
            executed("field = lambda t, y: y * (id(y) > 0)"),
            executed("field = lambda t, y: y * (hash('a') != 0)"),
            executed("field = lambda t, y: [y, open('/dev/null').close()][0]"),
            executed("import io\nfield = lambda t, y: [y, io.open('/dev/null').close()][0]"),
            torch.jit.trace(lambda t, y: torch.sin(y), (torch.ones(()), torch.ones(3, 2))),
        ],
    )
    def test_it_is_compiled_in_each_process(self, cache, field):
        with contextlib.suppress(Untranslatable):
            made = compile_(field)
            assert made.name is None
            assert compile_(field) is made
        assert files(cache) == []

    def test_a_tensor_that_no_walk_finds(self, cache, monkeypatch):
        monkeypatch.setitem(globals(), "_hidden", torch.ones(2))
        made = compile_(lambda t, y: y * globals()["_hid" + "den"])
        assert not made.is_shareable
        assert files(cache) == []

    def test_a_refusal(self, cache):
        with pytest.raises(Untranslatable, match="rand"):
            compile_(lambda t, y: y + torch.rand_like(y))
        with pytest.raises(Untranslatable, match="calling it changes"):
            compile_(Counting())
        assert files(cache) == []

    def test_under_a_mode_or_a_profiler(self, cache):
        import sys

        with Nothing():
            compile_(Scaled())
        calls = []
        sys.setprofile(lambda *_: calls.append(1))
        try:
            compile_(Scaled(2.0))
            assert sys.getprofile() is not None
        finally:
            sys.setprofile(None)
        assert files(cache) == []
        assert calls


class Counting(Scaled):
    nfe = 0

    def forward(self, t, y):
        self.nfe += 1
        return super().forward(t, y)


class TestUse:
    """What a look at the disk does and does not do."""

    def test_what_is_found_is_not_traced(self, monkeypatch):
        compile_(Scaled())
        monkeypatch.setattr(making, "make", lambda *_: pytest.fail("it is compiled"))
        assert again(Scaled()).is_loaded

    def test_it_is_said_where_it_comes_from(self, caplog):
        caplog.set_level(logging.DEBUG, "pysemi")
        name = compile_(Scaled()).name
        assert "compiled: " in caplog.text
        assert name in caplog.text
        caplog.clear()
        again(Scaled())
        assert "found on disk" in caplog.text
        assert name in caplog.text

    def test_no_random_number_is_used_up(self):
        torch.manual_seed(3)
        state = torch.get_rng_state()
        compile_(lambda t, y: y)
        assert torch.equal(torch.get_rng_state(), state)

    def test_what_is_distrusted_is_gone_and_compiled_anew(self, cache):
        field = Scaled()
        made = compile_(field)
        found = again(field)
        assert found.is_loaded
        assert distrust(found)
        assert files(cache) == []
        anew = compile_(field)
        assert not anew.is_loaded
        assert_equal(made, anew)
        assert not distrust(anew)  # nothing better would come of it
        assert files(cache) == []
