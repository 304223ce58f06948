"""``pysemi report``: one page of the results in some folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pysemi.errors import ArgumentError

__all__ = ["report"]


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of results, or above them.")
    ],
    out: Annotated[
        Path, typer.Option(help="The page; .md and .csv files and pictures go beside it.")
    ] = Path("report.html"),
) -> None:
    """Put the tables and pictures of finished runs on one self-contained page.

    Results of both backends stand side by side. Beside the page, the same is written as Markdown
    (with its pictures in a folder) and, one line per run, as CSV.
    """
    if out.suffix != ".html":
        raise ArgumentError("--out", f"{out} does not end in .html")
    from pysemi.experiments import all_experiments
    from pysemi.experiments.recorded import further_sections
    from pysemi.experiments.report import sections_of, write_csv, write_markdown, write_page
    from pysemi.experiments.reproduce import check_extra
    from pysemi.experiments.results import find_results

    check_extra()
    experiments = all_experiments()
    results = find_results(folders)
    sections = [*sections_of(results, experiments), *further_sections(results)]
    typer.echo(write_page(out, sections))
    typer.echo(write_markdown(out.with_suffix(".md"), sections))
    typer.echo(write_csv(out.with_suffix(".csv"), results))
