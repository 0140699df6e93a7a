"""`<case>--<method>`: how files of a results folder are named after what they are of."""

from __future__ import annotations

import hashlib
import re


def file_stem(case: str, method: str) -> str:
    """`<case>--<method>` for file names; names that no file system takes are replaced, with a hash against clashes."""
    return f"{_safe(case)}--{_safe(method)}"


def _safe(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9.+_-]+", "-", name).strip("-.")[:80]
    return safe if safe == name and "--" not in name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
