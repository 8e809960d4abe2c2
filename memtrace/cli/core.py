"""What a command does before it uses the core."""

from __future__ import annotations

import click

from memtrace import compiled


def prepare_core() -> None:
    """
    Refuse a stale core, and say on standard error when it is interpreted for want of a compiler.

    Raises
    ------
    ConfigError
        When compiled files do not belong to the sources beside them.
    """
    compiled.check()
    notice = compiled.notice()
    if notice:
        click.echo(notice, err=True)
