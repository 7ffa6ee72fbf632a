"""``ckptlab watch RUN``: follow a run while it is recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ckptlab.report.watch.feed import Feed


@click.command()
@click.argument("run")
@click.option("--text", is_flag=True, help="Print lines instead of serving a page; ends with RUN.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Of the page. [default: a free one]"
)
def watch(run: str, *, text: bool, port: int) -> None:
    """Follow RUN, local or in an object store, as it grows; recorded by whomever.

    Serves a page to this machine alone, at the address that is printed, until Ctrl-C. Only small
    arrays are read: at most 1 MB a minute from an object store.
    """
    from ckptlab.report.watch.feed import Feed

    feed = Feed(run)
    if text:
        _print_lines(feed)
        return
    from ckptlab.report.watch.server import serve

    with serve(feed, port) as address:
        click.echo(address)
        click.echo(f"Watching {feed.name}; over ssh, forward the port. Ctrl-C ends.", err=True)
        while True:
            time.sleep(3600)


def _print_lines(feed: Feed) -> None:
    from ckptlab.report.watch.text import describe

    shown = None
    while True:
        wait = feed.poll()
        line = describe(feed)
        if line != shown:
            click.echo(line)
            shown = line
        if feed.status["state"] != "recording":
            return
        time.sleep(wait)
