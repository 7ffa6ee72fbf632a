"""``ckptlab push`` and ``ckptlab pull``: runs to the Hugging Face Hub, and back."""

from __future__ import annotations

import click

_URL = "hf://[datasets/]OWNER/NAME[@REVISION][/FOLDER]"


@click.command()
@click.argument("run")
@click.argument("url", metavar=_URL)
@click.option("--private", is_flag=True, help="Make the repository private, if it is made.")
def push(run: str, url: str, private: bool) -> None:
    """Upload RUN to the Hub; files that are there already are not sent again.

    Log in first with `hf auth login`, or set HF_TOKEN.
    """
    from ckptlab.record.hub.transfer import push_run

    click.echo(push_run(run, url, private=private))


@click.command()
@click.argument("url", metavar=_URL)
@click.option("-o", "--output", required=True, help="Where the run is written.")
@click.option("--overwrite", is_flag=True, help="Replace an existing run.")
def pull(url: str, output: str, overwrite: bool) -> None:
    """Download a run from the Hub; a stopped download is gone on with."""
    from ckptlab.record.hub.transfer import pull_run

    click.echo(pull_run(url, output, overwrite=overwrite))
