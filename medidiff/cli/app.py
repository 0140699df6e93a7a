"""The `medidiff` command: assembles the verbs and turns every error into one sentence and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from medidiff import DISCLAIMER, __version__
from medidiff.errors import MedidiffError

PURPOSE = f"{DISCLAIMER[0].upper()}{DISCLAIMER[1:]}."
STOPPED = "stopped; nothing is half-written, and the same command goes on from what was finished, or starts anew"
VERBS = {  # each with its heading in --help
    "inspect": "Scans",
    "suv": "Scans",
    "reconstruct": "Scans",
    "convert": "Scans",
    "demo": "Scans",
    "review": "Scans",
    "simulate": "Research",
    "project": "Research",
    "phantom": "Research",
    "run": "Research",
    "evaluate": "Research",
    "models": "Research",
    "train": "Research",
    "tune": "Research",
}

app = typer.Typer(
    name="medidiff",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Take the noise out of low-dose CT: a DICOM folder in, a new DICOM series out.\n\n"
    "Your files are never changed, and nothing leaves this computer.",
    epilog="Start with [b]medidiff inspect FOLDER[/b], go on with [b]medidiff reconstruct FOLDER -o RESULT[/b]. "
    f"All options of a command: [b]medidiff reconstruct --help[/b].\n\n{PURPOSE}",
)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medidiff {__version__} ({DISCLAIMER})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


for _verb, _heading in VERBS.items():
    importlib.import_module(f"medidiff.cli.{_verb}").register(app)
    app.registered_commands[-1].rich_help_panel = _heading
    app.registered_commands[-1].epilog = PURPOSE


def main() -> None:
    """Entry point. Exit codes: 0 done, 2 bad usage or input, 3 some series failed, 130 stopped by Ctrl-C."""
    try:
        app()
    except MedidiffError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(STOPPED, 130)
    except SystemExit as stop:  # typer makes this of Ctrl-C, without a word
        if stop.code == 130:
            _fail(STOPPED, 130)
        raise
    except BrokenPipeError:  # `medidiff inspect DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; check the path, its permissions and the free space", 2)


def _fail(sentence: str, code: int) -> None:
    errors.print(f"medidiff: {sentence}", style=None, markup=False)
    sys.exit(code)
