"""A reader study as one ZIP file: what was asked, every answer with its history, and, once unblinded, what came out.

As long as the study is blind nothing in the file says which image was of which arm. Each table says on every line which
version wrote it and what it is not for; names of files say nothing of arms.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa

from dashboard.reading.analysis import completion, located
from dashboard.reading.design import Design
from dashboard.reading.record import Read
from dashboard.reading.session import DONE, MARKS, OPENED, SCORE
from medidiff import DISCLAIMER, __version__
from medidiff.results.readings import Study, read_events
from medidiff.results.tables import strict_json

NEVER = (2000, 1, 1, 0, 0, 0)  # the same study gives the same bytes


def exported(
    engine: sa.Engine, study: Study, items: Sequence[Read], tables: Mapping[str, pd.DataFrame]
) -> bytes:  # fmt: skip
    """The ZIP file; `tables` of the analysis are left out of a blind study. Raises InputError."""
    design, is_blind = Design(**study.design), study.unblinded is None
    found = {
        "answers": _answers(items, is_blind),
        "marks": _marks(design, items, is_blind),
        "readers": completion(items),
    }
    found["history"] = _history(engine, study)
    found |= {} if is_blind else tables
    texts = {f"{name}.csv": _csv(table) for name, table in found.items() if len(table)}
    texts["study.json"] = strict_json(_described(study, design, items)) + "\n"
    return _zipped(texts)


def _answers(items: Sequence[Read], is_blind: bool) -> pd.DataFrame:
    """One line an answer as it stands; `value` is a score, A (left) or B (right), or the number of marks."""
    lines = []
    for item in items:
        facts = _facts(item) | ({} if is_blind else {"left": item.arms[0], "right": "".join(item.arms[1:])})
        for question, value in item.answers.items():
            if question in (OPENED, DONE):
                continue
            line = {"question": question.removeprefix(SCORE), "value": len(value) if question == MARKS else value}
            chosen = {} if is_blind else {"preferred": item.chosen if len(item.arms) == 2 else ""}
            lines.append(facts | line | chosen | {"is_finished": item.is_done, "seconds": round(item.seconds, 3)})
    return pd.DataFrame(lines)


def _facts(item: Read) -> dict[str, Any]:
    return {
        "reader": item.reader, "item": item.position + 1, "case": item.case, "images": len(item.arms),
        "is_repeat": item.is_repeat,
    }  # fmt: skip


def _marks(design: Design, items: Sequence[Read], is_blind: bool) -> pd.DataFrame:
    """One line a mark (LPS mm); unblinded also which lesion it is on, counted from 1, 0 for none."""
    lesions = {case.number: case.lesions for case in design.cases}
    lines = []
    for item in items:
        truth = lesions[item.case]
        for (position, confidence), lesion in zip(item.marks, located(item.marks, truth or ()), strict=True):
            x, y, z = position
            line = _facts(item) | {"x_mm": x, "y_mm": y, "z_mm": z, "confidence": confidence}
            if not is_blind:
                line |= {"arm": item.arms[0], "lesion": "" if truth is None else 0 if lesion is None else lesion + 1}
            lines.append(line)
    return pd.DataFrame(lines)


def _history(engine: sa.Engine, study: Study) -> pd.DataFrame:
    """Every click in its order: also what was answered first and changed later."""
    return pd.DataFrame(
        {
            "reader": event.reader, "item": event.item + 1, "question": event.question.removeprefix(SCORE),
            "value": json.dumps(event.value), "at": event.at.isoformat(timespec="milliseconds"),
        }
        for event in read_events(engine, study.id)
    )  # fmt: skip


def _described(study: Study, design: Design, items: Sequence[Read]) -> dict[str, Any]:
    """The design; of a blind study without arms, images, truth and orders."""
    told = {
        "version": __version__, "note": DISCLAIMER, "study": study.id, "created": study.created.isoformat(),
        "created_with": study.version,
    }  # fmt: skip
    asked = design.model_dump(mode="json")
    if study.unblinded is None:
        asked["arms"], asked["cases"] = len(design.arms), len(design.cases)
        return told | {"unblinded": None, "design": asked}
    orders: dict[str, list[Any]] = {}
    for item in items:
        orders.setdefault(item.reader, []).append({"case": item.case, "arms": item.arms, "is_repeat": item.is_repeat})
    unblinded = {"at": study.unblinded.isoformat(), "by": study.unblinded_by}
    return told | {"unblinded": unblinded, "design": asked, "orders": orders}


def _csv(table: pd.DataFrame) -> str:
    return table.assign(medidiff=__version__, note=DISCLAIMER).to_csv(index=False, lineterminator="\n")


def _zipped(texts: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(texts.items()):
            archive.writestr(zipfile.ZipInfo(name, NEVER), text, zipfile.ZIP_DEFLATED)
    return file.getvalue()
