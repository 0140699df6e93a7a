"""The command line: one module a verb, each adding itself to `app` through `register`."""

from medidiff.cli.app import app, main

__all__ = ["app", "main"]
