"""What another process finds on disk, and what it must not find after an edit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import importlib, json, logging, sys, time, torch, pysemi
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
said = []

class Listening(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

logging.getLogger("pysemi").setLevel(logging.DEBUG)
logging.getLogger("pysemi").addHandler(Listening())
found = {}
for name in sys.argv[2:]:
    before = set(sys.modules)
    field = importlib.import_module(name).FIELD
    said.clear()
    traced = "pysemi.compiler.trace" in sys.modules
    made = pysemi.compile(field, torch.ones(3, 2))
    loaded = any("found on disk" in line for line in said)
    assert loaded != any("compiled:" in line for line in said), said
    found[name] = {
        "loaded": loaded,
        "lazy": "pysemi.compiler.trace" not in sys.modules,
        "listing": made.listing,
        "said": said[:],
    }
print(json.dumps(found))
"""

HEAD = "import torch\nfrom torch import nn\n"

FIELD = """
class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, t, y):
        return {body}

FIELD = Field()
"""

# name -> (how its field reads what is edited, the files it is in, the edit)
EDITS = {
    "method": ("self.layer(y) * 2.0", {}, ("method.py", "2.0", "3.0")),
    "helper": (
        "scaled(self.layer(y))",
        {"import": "from lib_helper import scaled", "lib_helper.py": "def scaled(y): return 2 * y"},
        ("lib_helper.py", "2", "3"),
    ),
    "submodule": (
        "lib.sub.scaled(self.layer(y))",
        {"import": "import lib.sub", "lib/sub.py": "def scaled(y): return 2 * y"},
        ("lib/sub.py", "2", "3"),
    ),
    "constant": (
        "lib_constant.RATE * self.layer(y)",
        {"import": "import lib_constant", "lib_constant.py": "RATE = 2.0"},
        ("lib_constant.py", "2", "3"),
    ),
    "deep": (
        "lib.deep.RATE * self.layer(y)",
        {"import": "import lib.deep", "lib/deep.py": "RATE = 2.0"},
        ("lib/deep.py", "2", "3"),
    ),
    "named": (
        "Double.apply(self.layer(y))",
        {
            "import": "from lib_named import Double",
            "lib_named.py": HEAD
            + "class Double(torch.autograd.Function):\n"
            + "    @staticmethod\n"
            + "    def forward(ctx, x): return 2 * x\n"
            + "    @staticmethod\n"
            + "    def backward(ctx, bar): return 2.0 * bar\n",
        },
        ("lib_named.py", "2.0", "5.0"),
    ),
    "created": (
        "Helper(2.0).scaled(self.layer(y))",
        {
            "import": "from lib_created import Helper",
            "lib_created.py": "class Helper:\n"
            + "    def __init__(self, rate): self.rate = rate + 0.0\n"
            + "    def scaled(self, y): return self.rate * y\n",
        },
        ("lib_created.py", "0.0", "1.0"),
    ),
    "late": (
        "self.late(self.layer(y))",
        {
            "more": "    def late(self, y):\n"
            + "        from lib_late import RATE\n        return RATE * y\n",
            "lib_late.py": "RATE = 2.0",
        },
        ("lib_late.py", "2", "3"),
    ),
    "by_name": (
        'getattr(lib_by_name, "sca" + "led")(self.layer(y))',
        {"import": "import lib_by_name", "lib_by_name.py": "def scaled(y): return 2 * y"},
        ("lib_by_name.py", "2", "3"),
    ),
    "constant_by_name": (
        'getattr(lib_by_name_too, "RA" + "TE") * self.layer(y)',
        {"import": "import lib_by_name_too", "lib_by_name_too.py": "RATE = 2.0"},
        ("lib_by_name_too.py", "2", "3"),
    ),
    "class_constant": (
        "self.settings.rate * self.layer(y)",
        {
            "more": "    settings = Settings()\n",
            "import": "class Settings:\n    def __init__(self): self.rate = 2.0",
        },
        ("class_constant.py", "2.0", "3.0"),
    ),
    "patched": (
        "nn.functional.softsign(self.layer(y))",
        {
            "import": "import lib_patched",
            "lib_patched.py": HEAD + "def softsign(y): return 2 * y\n"
            "nn.functional.softsign = softsign\n",
        },
        ("lib_patched.py", "2", "3"),
    ),
    "cached": (
        "scale() * self.layer(y)",
        {
            "import": "from lib_cached import scale\nscale()",
            "lib_cached.py": "import functools\n@functools.cache\ndef scale(): return 2.0",
        },
        ("lib_cached.py", "2", "3"),
    ),
}


def write_modules(folder):
    (folder / "lib").mkdir()
    (folder / "lib" / "__init__.py").write_text("")
    for name, (body, parts, _) in EDITS.items():
        for file, text in parts.items():
            if file.endswith(".py"):
                (folder / file).write_text(text + "\n")
        text = HEAD + parts.get("import", "") + "\n" + FIELD.format(body=body)
        more = parts.get("more", "")
        (folder / f"{name}.py").write_text(text.replace("\nFIELD =", f"\n{more}\nFIELD ="))
    (folder / "unchanged.py").write_text(HEAD + FIELD.format(body="torch.tanh(self.layer(y))"))


def edit(folder):
    for file, before, after in (change for _, _, change in EDITS.values()):
        path = folder / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))


def in_a_process(folder, *names, program=PROGRAM):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",  # files of one second and one length look the same
        "PYSEMI_COMPILATION_CACHE": "on",
        "PYSEMI_CACHE_DIR": str(folder / "cache"),
    }
    answer = subprocess.run(
        [sys.executable, "-c", program, str(folder), *names],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=200,
    )
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of four processes: the first, one more, one after all edits, and one after that."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_modules(folder)
    names = ["unchanged", *EDITS]
    found = [in_a_process(folder, *names), in_a_process(folder, *names)]
    edit(folder)
    return [*found, in_a_process(folder, *names), in_a_process(folder, *names)]


@pytest.mark.parametrize("name", ["unchanged", *EDITS])
def test_another_process_finds_it(runs, name):
    first, second, _, _ = (run[name] for run in runs)
    assert not first["loaded"]
    assert second["loaded"], first["said"]
    assert second["listing"] == first["listing"]


@pytest.mark.parametrize("name", EDITS)
def test_after_an_edit_it_is_compiled_anew_once(runs, name):
    first, _, edited, again = (run[name] for run in runs)
    assert not edited["loaded"]
    assert edited["listing"] != first["listing"]
    assert again["loaded"]
    assert again["listing"] == edited["listing"]


def test_what_was_not_edited_is_still_found(runs):
    assert runs[2]["unchanged"]["loaded"]


def test_a_process_that_finds_all_does_not_import_what_traces(runs):
    assert not runs[0]["unchanged"]["lazy"]
    assert all(each["lazy"] for each in runs[1].values())


INTERACTIVE = """
import json, logging, sys, torch, pysemi
said = []

class Listening(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

logging.getLogger("pysemi").setLevel(logging.DEBUG)
logging.getLogger("pysemi").addHandler(Listening())
names = {"__name__": "__main__", "torch": torch}
exec(compile(sys.argv[2], "<stdin>", "exec"), names)
listing = pysemi.compile(names["field"], torch.ones(3, 2)).listing
print(json.dumps({"loaded": any("found on disk" in line for line in said), "listing": listing}))
"""


def test_code_that_was_typed_in_is_known_by_itself(tmp_path):
    def typed(text):
        return in_a_process(tmp_path, text, program=INTERACTIVE)

    text = "def outer(y):\n    return inner(y)\ndef inner(y):\n    return 2 * y\n"
    text += "def field(t, y):\n    return globals()['ou' + 'ter'](y)\n"
    first = typed(text)
    assert not first["loaded"]
    assert typed(text)["loaded"]
    other = typed(text.replace("2 * y", "3 * y"))
    assert not other["loaded"]
    assert other["listing"] != first["listing"]


def test_what_torch_prepares_at_the_first_call_makes_no_difference(tmp_path):
    # vmap looks into the environment for itself, once in a process.
    body = "torch.vmap(lambda v: self.layer(v).tanh())(y)"
    (tmp_path / "mapped.py").write_text(HEAD + FIELD.format(body=body))
    runs = [in_a_process(tmp_path, "mapped")["mapped"] for _ in range(2)]
    assert [run["loaded"] for run in runs] == [False, True]
