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

VERBS = ("inspect", "reconstruct", "simulate", "convert", "models", "train", "demo")

app = typer.Typer(
    name="medidiff",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=f"Denoise CT with conditional diffusion models: DICOM in, valid derived DICOM out ({DISCLAIMER}).",
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


for _verb in VERBS:
    importlib.import_module(f"medidiff.cli.{_verb}").register(app)


def main() -> None:
    """Entry point. Exit codes: 0 done, 2 bad usage or input, 3 some series failed, 130 stopped by Ctrl-C."""
    try:
        app()
    except MedidiffError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("stopped; what was finished is kept, the same command continues", 130)
    except BrokenPipeError:  # `medidiff inspect DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; check the path, its permissions and the free space", 2)


def _fail(sentence: str, code: int) -> None:
    errors.print(f"medidiff: {sentence}", style=None, markup=False)
    sys.exit(code)
