"""One self-contained HTML page, and tables for papers, from a folder of results."""

from medidiff.report.page import build

__all__ = ["build"]
