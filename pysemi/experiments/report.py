"""The report: one self-contained page with a run's table and pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pysemi.atomic import replacing, write_text
from pysemi.experiments import plots
from pysemi.experiments.experiment import Experiment
from pysemi.experiments.run_directory import RunDirectory
from pysemi.experiments.summary import paper_table, step_table

__all__ = ["write_report"]


@dataclass(frozen=True)
class _Picture:
    name: str
    title: str
    caption: str
    png: bytes

    @property
    def data(self) -> str:
        return base64.b64encode(self.png).decode("ascii")


def write_report(
    out: Path,
    experiment: Experiment,
    rows: Sequence[Mapping[str, Any]],
    runs: Mapping[str, Sequence[RunDirectory]],
    environment: Mapping[str, Any],
    split: str,
    command: str,
) -> Path:
    """Write ``report.html`` and its pictures (``figures/*.png``) into ``out``.

    Parameters
    ----------
    rows : sequence of mapping
        As in ``summary.json``.
    runs : mapping
        By norm, one finished run per seed.
    environment : mapping
        As in a run's ``environment.json``.
    split : str
        How training and test set were separated.
    command : str
        The arguments that make the same runs again.

    Returns
    -------
    Path
        Of the page, which refers to no other file.
    """
    import jinja2

    pictures = _pictures(rows[0]["metric_name"], runs)
    for picture in pictures:
        with replacing(out / "figures" / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    template = resources.files("pysemi.experiments").joinpath("report.html.jinja")
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        template.read_text("utf-8")
    )
    html = page.render(
        experiment=experiment,
        tables=[paper_table(rows, experiment.paper), step_table(rows)],
        figures=pictures,
        command=command,
        facts=[("split", split), *_facts(rows, environment)],
    )
    write_text(out / "report.html", html)
    return out / "report.html"


def _pictures(metric: str, runs: Mapping[str, Sequence[RunDirectory]]) -> list[_Picture]:
    histories = {norm: [run.history() for run in seeds] for norm, seeds in runs.items()}
    solves = {
        norm: [[s for s in run.solves() if s.direction == "backward"] for run in seeds]
        for norm, seeds in runs.items()
    }
    return [
        _Picture(
            "training",
            f"Test {metric} and backward evaluations during training",
            "In the form of the paper's Figure 1. Lines: mean over the seeds; bands: one standard "
            "deviation.",
            plots.training_figure(histories, metric),
        ),
        _Picture(
            "evaluations",
            "Where the adjoint equations are evaluated",
            "In the form of the paper's Figure 4. Evaluations of the vector field by the backward "
            "solves of all training, by the time t at which they were made; in brackets, how many "
            "a run made.",
            plots.evaluations_figure(solves),
        ),
        _Picture(
            "rejections",
            "Where backward steps are rejected",
            "In the form of the paper's Figure 5. Rejected steps of the backward solves of all "
            "training, by the time t they started from; in brackets, how many a run had.",
            plots.rejections_figure(solves),
        ),
    ]


def _facts(
    rows: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]
) -> list[tuple[str, str]]:
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return [
        ("preset", f"{first['preset']}, {first['epochs']} epochs"),
        ("parameters", f"{first['parameters']:,}"),
        ("seeds", ", ".join(map(str, sorted({row["seed"] for row in rows})))),
        ("backend", first["backend"]),
        ("machine", f"{environment['platform']}, {environment['cpus']} CPUs"),
        ("threads", str(environment["torch_threads"])),
        ("versions", versions),
        ("finished", environment["started"]),
    ]
