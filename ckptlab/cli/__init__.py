"""The command line. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from ckptlab._version import __version__
from ckptlab.errors import CkptlabError, spelled_as_flags
from ckptlab.extras import explained
from ckptlab.plugins import load_plugin, load_plugins
from ckptlab.registry import allow

COMMANDS: dict[str, tuple[str, str]] = {
    "record": ("ckptlab.cli.record:record", "Train a network and record every step."),
    "info": ("ckptlab.cli.info:info", "Show what a run holds."),
    "verify": ("ckptlab.cli.verify:verify", "Check a run for damage."),
    "health": ("ckptlab.cli.health:health", "Look for damage in a series of snapshots."),
    "repack": ("ckptlab.cli.repack:repack", "Store a run with another codec, lossless."),
    "import": (
        "ckptlab.cli.import_checkpoints:import_run",
        "Turn a series of checkpoints into a run.",
    ),
    "export": ("ckptlab.cli.export:export", "Write steps as checkpoints."),
    "push": ("ckptlab.cli.hub:push", "Upload a run to the Hugging Face Hub."),
    "pull": ("ckptlab.cli.hub:pull", "Download a run from the Hugging Face Hub."),
    "analyze": ("ckptlab.cli.analyze:analyze", "Measure a run."),
    "report": ("ckptlab.cli.report:report", "Write a report on runs or a study: one HTML page."),
    "watch": ("ckptlab.cli.watch:watch", "Follow a run while it is recorded."),
    "imp": ("ckptlab.cli.experiments:imp", "Prune a run iteratively, with rewinding."),
    "perturb": ("ckptlab.cli.experiments:perturb", "Perturb a snapshot and retrain."),
    "connect": (
        "ckptlab.cli.experiments:connect",
        "Measure linear mode connectivity from a step.",
    ),
    "study": ("ckptlab.cli.study:study", "Run a grid of experiments from a file."),
}
"""Where each command is implemented and what it does: help imports none of them."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return all command names, in the order people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None if the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command for an unknown one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from ckptlab.errors import unknown_name

            raise unknown_name("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ckptlab")
@click.option(
    "--plugin",
    "plugins",
    metavar="FILE.py",
    multiple=True,
    help="Load a file that registers metrics, models and the like; also CKPTLAB_PLUGINS.",
)
@click.option(
    "--allow",
    "allowed",
    metavar="MODULE:OBJECT",
    multiple=True,
    help="Let this code be imported where a run names it.",
)
def cli(plugins: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """Record every step of a neural network's training, and measure it.

    Add --debug to any command to see the traceback of an error.
    """
    for name in allowed:
        allow(name)
    load_plugins()
    for file in plugins:
        load_plugin(file)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    warnings.showwarning = _show_warning
    sys.exit(_run([argument for argument in given if argument != "--debug"], debug))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        with explained(" ".join(["ckptlab", *arguments[:1]])), spelled_as_flags(_flag_of):
            result = cli.main(args=arguments, prog_name="ckptlab", standalone_mode=False)
    except CkptlabError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of stdout is gone; nothing may be written on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if debug:
            raise
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _fail(f"unexpected error: {what} (--debug shows where)", 1)
    return result if isinstance(result, int) else 0


def _flag_of(parameter: str) -> str | None:
    """Return the flag of the running command that sets a parameter."""
    context = click.get_current_context(silent=True)
    options = context.command.params if context is not None else []
    flags = [
        max(o.opts, key=len) for o in options if isinstance(o, click.Option) and o.name == parameter
    ]
    return flags[0] if flags else None


def _fail(message: str, code: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # Third parties warn of their own future; what ckptlab says is for the user.
    if issubclass(category, UserWarning) and not category.__module__.startswith(("zarr", "torch")):
        click.echo(f"Warning: {' '.join(str(message).split())}", err=True)
