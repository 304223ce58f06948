"""What pysemi needs of Julia: its version, and packages with their versions.

The one list is ``pysemi/juliapkg.json``, in juliapkg's own format, so that
juliacall's automatic installation honours it too. PythonCall's entry comes from
juliacall's file: the two must be of one version.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "OPTIONAL_PACKAGES",
    "JuliaPackage",
    "julia_compat",
    "required_packages",
    "requirement_files",
    "version_allowed",
]


@dataclass(frozen=True)
class JuliaPackage:
    """A registered Julia package.

    Attributes
    ----------
    name, uuid : str
        As in Julia's General registry.
    compat : str or None
        Versions that will do, in the syntax of a Project.toml; None for any.
    """

    name: str
    uuid: str
    compat: str | None = None


#: Packages that pysemi uses where the project has them.
OPTIONAL_PACKAGES = (JuliaPackage("CUDA", "052768ef-5323-5732-b1bb-66c8b64840ba"),)

_OWN_FILE = Path(__file__).parents[1] / "juliapkg.json"


def requirement_files() -> dict[str, Path]:
    """Return the requirement files to install from, by the package each belongs to.

    juliacall's is absent where juliacall is; nothing is imported to find it.
    """
    files = {"pysemi": _OWN_FILE}
    spec = importlib.util.find_spec("juliacall")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).with_name("juliapkg.json")
        if path.is_file():
            files["juliacall"] = path
    return files


def required_packages() -> tuple[JuliaPackage, ...]:
    """Return the packages that pysemi loads, PythonCall last.

    What only juliacall's own start needs (OpenSSL_jll) is left to juliacall.
    """
    packages = _packages(_OWN_FILE)
    juliacall = requirement_files().get("juliacall")
    if juliacall is not None:
        packages += [package for package in _packages(juliacall) if package.name == "PythonCall"]
    return tuple(packages)


def julia_compat() -> str:
    """Return the versions of Julia that pysemi runs on, as in a Project.toml."""
    compat = json.loads(_OWN_FILE.read_text(encoding="utf-8"))["julia"]
    assert isinstance(compat, str)
    return compat


def version_allowed(version: str, compat: str | None) -> bool:
    """Return whether ``version`` is among those that ``compat`` allows.

    A build's label ("+0") is ignored and so is a pre-release's ("-rc1"), as
    Julia's own package manager does.
    """
    if compat is None:
        return True
    from juliapkg.compat import Compat, Version  # here, so that `import pysemi` never imports it

    release = version.partition("+")[0].partition("-")[0]
    return Version.parse(release) in Compat.parse(compat)


def _packages(path: Path) -> list[JuliaPackage]:
    entries = json.loads(path.read_text(encoding="utf-8"))["packages"]
    return [
        JuliaPackage(name, entry["uuid"], entry.get("version")) for name, entry in entries.items()
    ]
