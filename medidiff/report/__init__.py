"""One self-contained HTML page, and tables for papers, from a folder of results."""
