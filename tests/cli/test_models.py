"""`medidiff models`: what is there, and the whole card of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medidiff.model import build, embedded, load, save
from medidiff.seen import Range, Seen


def test_the_list_names_every_embedded_model_and_those_given(cli: Any, tiny_model: Path) -> None:
    ended = cli("models")
    assert ended.code == 0
    for name, path in embedded().items():
        assert name in ended.out
        assert load(path).sha256[:12] in ended.out
    names = [tiny_model.parent / "second.safetensors", tiny_model]
    names[0].write_bytes(tiny_model.read_bytes())
    ended = cli("models", *names)
    assert ended.code == 0
    assert ended.out.count(load(tiny_model).sha256[:12]) == 2


def test_a_card_is_shown_whole(cli: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Every statement of the card is on the page, nested ones too, and square brackets are not markup."""
    model = load(tiny_model)
    card = model.card.model_copy(
        update={
            "data": ("collection [A]", "collection B"),
            "training": {"steps": 1000, "loss": {"weighting": "EDM"}},
            "metrics": ({"dose": 0.25, "rmse_reduction": 0.42},),
            "uncertainty": {"factor": 1.25},
            "seen": Seen(noise_hu=Range(low=4, high=100, least=3, most=120), kernels=("B40f", "FC13")),
            "limits": ("adults only",),
        }
    )
    path = tmp_path / "carded.safetensors"
    save(path, build(model.architecture), model.architecture, model.scaling, card)
    ended = cli("models", path)
    assert ended.code == 0
    for words in (
        "collection [A]; collection B",
        "steps 1000, loss (weighting EDM)",
        "  - dose 0.25, rmse reduction 0.42",
        "factor 1.25",
        "  - noise level 4 to 100 HU",
        "  - kernels: B40f, FC13",
        "  - adults only",
        load(path).sha256,
        "research use only, not for diagnosis",
    ):
        assert words in ended.out


def test_an_unknown_model_is_one_sentence(cli: Any) -> None:
    ended = cli("models", "nothing")
    assert ended.code == 2
    assert ended.err.startswith("medidiff: model 'nothing': neither a file nor an embedded model")
    assert ended.err.count("\n") == 1
