"""``memtrace report``: draw a run folder's report again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
def command(directory: Path) -> None:
    """Write DIR/report.html and DIR/figures/*.svg from the tables in DIR.

    DIR is a folder that `memtrace replay` wrote. What stood in its report before is replaced; the tables are
    only read. Prints the path of the page.

    \b
    memtrace report runs/a
    """
    from memtrace.report.page import write_report

    page = write_report(directory, progress=lambda title: click.echo(f"drawing: {title}", err=True))
    click.echo(page)
