"""`medidiff models`: what models there are, and the card of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medidiff import DISCLAIMER

if TYPE_CHECKING:
    from medidiff.model import Model

HASH_DIGITS = 12
NAME = 20  # letters that are never broken into two lines; paths are longer


def models(
    name: Annotated[
        list[str] | None, typer.Argument(help="An embedded model or a model file; with one name its card is shown.")
    ] = None,
) -> None:
    """List the models that come with medidiff (and files you name), or show the card of one."""
    from medidiff.model import embedded, load

    if name is not None and len(name) == 1:
        _show(load(name[0]))
        return
    known = embedded()
    paths = known | {given: known.get(given, Path(given)) for given in name or []}
    _list({given: (load(given), path) for given, path in paths.items()})


def _list(found: dict[str, tuple[Model, Path]]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print("no model is embedded in this installation: give a file, medidiff models FILE")
        return
    table = Table(title=f"Models ({DISCLAIMER})", title_justify="left")
    for heading in ("name", "modality", "MB", "sees", "sha256", "summary"):
        whole = max((len(name) for name in found if len(name) <= NAME), default=0) if heading == "name" else None
        table.add_column(heading, justify="right" if heading == "MB" else "left", overflow="fold", min_width=whole)
    for name, (model, path) in found.items():
        size = f"{path.stat().st_size / 1e6:.1f}" if path.exists() else ""
        card = model.card
        cells = (name, card.modality, size, _sees(model), model.sha256[:HASH_DIGITS], card.summary)
        table.add_row(*map(escape, cells))
    console.print(table)


def _show(model: Model) -> None:
    card = model.card
    lines = {
        "name": card.name,
        "modality": f"{card.modality}, values in {model.scaling.unit}"
        + (", from projections" if card.input == "projections" else ""),
        "summary": card.summary,
        "sha256": model.sha256,
        "network": _network(model),
        "trained on": "; ".join(card.data),
        "low dose": card.simulated,
        "training": "; ".join(_stage(facts) for facts in card.training.get("stages", [card.training])),
        "uncertainty": _words({k: v for k, v in card.uncertainty.items() if k != "table"}) or "not calibrated",
    }
    console = Console(highlight=False, soft_wrap=True)
    for heading, text in lines.items():
        if text:
            console.print(f"[b]{heading}[/b]: {escape(text)}")
    lists = {
        "measured": [_words(row) for row in card.metrics],
        "has seen": card.seen.lines() if card.seen else [],
        "limits": list(card.limits),
    }
    for heading, rows in lists.items():
        if rows:
            console.print(f"[b]{heading}[/b]:")
        for row in rows:
            console.print(f"  - {escape(row)}")
    console.print(f"({DISCLAIMER})")


def _stage(facts: dict[str, Any]) -> str:
    """Length and data of one stage of training; the whole recipe is in the file's metadata."""
    recipe = facts.get("recipe")
    if not isinstance(recipe, dict):
        return _words(facts)
    known = ("manifest", "slabs_per_step", "learning_rate", "seed")
    return f"{facts.get('step')} steps ({_words({key: recipe[key] for key in known if key in recipe})})"


def _network(model: Model) -> str:
    """Kind and size of the network."""
    size = f"{_parameters(model) / 1e6:.2f} M parameters"
    if not model.can_sample:
        return f"{model.architecture.network}, {size}, {_sees(model)}; a regression: no uncertainty, no samples"
    gives_its_own = model.has_spread and model.card.input == "image"
    spread = "with an uncertainty of its own" if gives_its_own else "uncertainty from samples"
    widths = ", ".join(map(str, model.architecture.widths))
    return f"{size}, {_sees(model)}, widths {widths}, {spread}"


def _sees(model: Model) -> str:
    """What it is shown for a slice."""
    if model.architecture.dimensions == 3:
        return "blocks in 3-D" + (", a CT if there is one" if model.architecture.guide else "")
    return f"{model.slab} slices" if model.slab > 1 else "1 slice"


def _parameters(model: Model) -> int:
    return sum(p.numel() for p in model.denoiser.parameters())


def _words(values: dict[str, Any]) -> str:
    """A mapping of the card as a line of text; nested mappings in brackets."""
    parts = (f"{key.replace('_', ' ')} {_word(value)}" for key, value in values.items())
    return ", ".join(parts)


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_words(value)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_word(v) for v in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def register(app: typer.Typer) -> None:
    app.command()(models)
