"""Reports: one self-contained page; also Markdown with pictures, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from pysemi.atomic import replacing, write_text
from pysemi.errors import ResultsError
from pysemi.experiments.experiment import Experiment
from pysemi.experiments.results import Results
from pysemi.experiments.section import Section

__all__ = ["sections_of", "write_csv", "write_markdown", "write_page"]


def write_page(path: Path, sections: Sequence[Section]) -> Path:
    """Write a page that needs no other file, and say where."""
    write_text(path, _render("report.html.jinja", sections, escape=True))
    return path


def write_markdown(path: Path, sections: Sequence[Section]) -> Path:
    """Write the same as Markdown, the pictures into a folder beside it."""
    folder = path.with_name(f"{path.stem}-figures")
    located: list[dict[str, Any]] = []
    for number, section in enumerate(sections, start=1):
        names = {}
        for picture in section.pictures:
            name = f"{number:02}-{picture.name}.png"
            with replacing(folder / name) as temporary:
                temporary.write_bytes(picture.png)
            names[picture.name] = f"{folder.name}/{name}"
        located.append({"section": section, "files": names})
    write_text(path, _render("report.md.jinja", located, escape=False))
    return path


def write_csv(path: Path, results: Sequence[Results]) -> Path:
    """Write one line per run."""
    rows = [{**row, **_flat_settings(row)} for result in results for row in result.rows]
    columns = list(
        dict.fromkeys(
            name
            for row in rows
            for name, value in row.items()
            if not isinstance(value, (dict, list))
        )
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
    return path


def sections_of(results: Sequence[Results], experiments: Mapping[str, Experiment]) -> list[Section]:
    """A section for each experiment and preset, with the facts of how it was made.

    Of one preset of an experiment, the results of both backends stand in one section.

    Parameters
    ----------
    results : sequence of Results
    experiments : mapping
        By name, those that the results are of.

    Raises
    ------
    ResultsError
        If an experiment is not known.
    """
    groups: dict[tuple[str, str], list[Results]] = {}
    for result in results:
        groups.setdefault((result.experiment, result.preset), []).append(result)
    sections = []
    for (name, _), group in groups.items():
        if name not in experiments:
            raise ResultsError(f"{group[0].path} is of an experiment {name!r}, which is not known")
        section = experiments[name].section([run for result in group for run in result.runs()])
        sections.append(
            replace(
                section,
                facts=[fact for result in group for fact in _facts(result, len(group) > 1)],
                commands=[f"pysemi {result.command}" for result in group],
            )
        )
    return sections


def _render(template: str, sections: Sequence[Any], *, escape: bool) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=escape, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["cell"] = _markdown_cell
    source = resources.files("pysemi.experiments").joinpath(template).read_text("utf-8")
    return environment.from_string(source).render(sections=sections)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _facts(result: Results, several: bool) -> list[tuple[str, str]]:
    environment = result.environment
    rows = result.rows
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    on = f" ({result.backend})" if several else ""
    own = [
        ("backend", result.backend),
        ("preset", f"{result.preset}, {rows[0]['epochs']} epochs"),
        ("seeds", ", ".join(map(str, sorted({row["seed"] for row in rows})))),
        ("machine", f"{environment['platform']}, {environment['cpus']} CPUs"),
        ("threads", str(environment["torch_threads"])),
        ("versions", versions),
        ("commit", environment.get("commit") or "unknown"),
        ("started", environment["started"]),
    ]
    return [
        *((f"{name}{on}", value) for name, value in result.facts.items()),
        *((f"{name}{on}", value) for name, value in own),
    ]


def _flat_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"settings.{name}": value for name, value in row.get("settings", {}).items()}
