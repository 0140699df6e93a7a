"""Regions measured on volumes whose values are known."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from dashboard.measuring import Array, Region, Shown, Voxels, histogram, profile, readings, spectrum
from dashboard.sheet import outline, sheet
from medidiff.errors import InputError

SHAPE = (60, 50, 20)  # columns, rows, slices
STEPS = (2.0, 2.0, 3.0)
ORIGIN = np.array([-70.0, -120.0, 400.0])  # LPS mm of the first voxel


def affine(signs: tuple[int, int, int] = (-1, -1, 1)) -> Array:
    """RAS; of a CT by default: x to the left, y to the back, z to the head in LPS."""
    made = np.diag([*(sign * step for sign, step in zip(signs, STEPS, strict=True)), 1.0])
    made[:3, 3] = [-ORIGIN[0], -ORIGIN[1], ORIGIN[2]]
    return made


def saved(folder: Path, values: Any, place: Array | None = None, name: str = "a") -> Voxels:
    path = folder / f"{name}.nii"
    nib.save(nib.Nifti1Image(np.asarray(values, np.float32), affine() if place is None else place), path)
    return Voxels(path)


def lps(*voxel: float) -> list[float]:
    """LPS mm of a voxel of the usual volume."""
    return (ORIGIN + np.array(voxel) * STEPS).tolist()


def region(kind: str, *points: list[float], plane: str = "axial", name: str = "1") -> Region:
    return Region.of({"id": name, "kind": kind, "plane": plane, "points_mm": points})


def ramp() -> Any:
    """10 a voxel of x, 1 of y, 100 of z: every voxel tells where it is."""
    i, j, k = np.indices(SHAPE)
    return 10.0 * i + j + 100.0 * k


@pytest.mark.parametrize(
    ("plane", "first", "last", "pixels"),
    [("axial", (10, 20, 5), (14, 22, 5), 5 * 3), ("coronal", (10, 20, 5), (14, 20, 8), 5 * 4),
     ("sagittal", (10, 20, 5), (10, 22, 8), 3 * 4)],
)  # fmt: skip
def test_a_rectangle_holds_the_voxels_between_its_corners(
    tmp_path: Path, plane: str, first: tuple[int, ...], last: tuple[int, ...], pixels: int
) -> None:
    """Mean, extremes and area by hand, in each plane, whichever corner came first."""
    image = Shown("scan", "HU", saved(tmp_path, ramp()))
    inside = ramp()[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]
    for a, b in ((first, last), (last, first)):
        (found,) = readings([region("rectangle", lps(*a), lps(*b), plane=plane)], [image], None)
        assert found.pixels == pixels == inside.size
        assert found.mean == pytest.approx(inside.mean())
        assert found.sd == pytest.approx(inside.std(ddof=1))
        assert (found.low, found.high) == (inside.min(), inside.max())
        assert found.area_mm2 == pytest.approx(pixels * (4.0 if plane == "axial" else 6.0))


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, -1, 1), (-1, 1, -1), (1, 1, -1)])
def test_the_patient_decides_not_the_order_of_the_file(tmp_path: Path, signs: tuple[int, int, int]) -> None:
    """The same voxels stored in any direction give the same reading at the same place of the patient."""
    flips = [axis for axis, (a, b) in enumerate(zip(signs, (-1, -1, 1), strict=True)) if a != b]
    place = affine() @ np.diag([*(-1.0 if axis in flips else 1.0 for axis in range(3)), 1.0])
    last = np.array([SHAPE[axis] - 1 if axis in flips else 0 for axis in range(3)])
    place[:3, 3] = (affine() @ [*last, 1])[:3]
    image = Shown("scan", "HU", saved(tmp_path, np.flip(ramp(), flips), place))
    (found,) = readings([region("rectangle", lps(10, 20, 5), lps(14, 22, 5))], [image], None)
    assert found.mean == pytest.approx(10 * 12 + 21 + 500)
    section = image.section("axial", np.array(lps(0, 0, 5)))
    assert section is not None
    shown = section.display()  # left of the patient, x of LPS, on the right; the back at the bottom
    assert shown[0, 1] - shown[0, 0] == pytest.approx(10)
    assert shown[1, 0] - shown[0, 0] == pytest.approx(1)


def test_a_circle_has_its_area_and_only_what_lies_in_it(tmp_path: Path) -> None:
    i, j, _ = np.indices(SHAPE)
    inside = (i - 30) ** 2 + (j - 25) ** 2 <= 10.2**2
    image = Shown("scan", "HU", saved(tmp_path, np.where(inside, 50.0, -1000.0)))
    (found,) = readings([region("circle", lps(30, 25, 4), lps(40, 25, 4))], [image], None)
    assert (found.mean, found.sd) == (50.0, 0.0)
    assert found.area_mm2 == pytest.approx(np.pi * 20**2, rel=0.02)


def test_an_outline_holds_what_it_goes_round(tmp_path: Path) -> None:
    """A right triangle: half of its rectangle."""
    image = Shown("scan", "HU", saved(tmp_path, ramp()))
    corners = [lps(9.5, 9.5, 3), lps(49.5, 9.5, 3), lps(9.5, 49.5, 3)]
    (found,) = readings([region("freehand", *corners)], [image], None)
    assert found.area_mm2 == pytest.approx(0.5 * 80 * 80, rel=0.03)
    assert found.mean == pytest.approx(10 * (9.5 + 40 / 3) + 9.5 + 40 / 3 + 300, rel=0.01)


def test_the_bias_is_against_the_chosen_image_of_the_same_unit(tmp_path: Path) -> None:
    """Also against one on another grid; a map of deviations has none, nor has a PET against a CT."""
    low = Shown("low", "HU", saved(tmp_path, np.full(SHAPE, 40.0), name="low"))
    finer = affine() @ np.diag([0.5, 0.5, 0.5, 1.0])
    full = Shown("full", "HU", saved(tmp_path, np.full((120, 100, 40), 43.5), finer, "full"))
    claimed = Shown("deviation", "HU", saved(tmp_path, np.full(SHAPE, 9.0), name="sd"), is_compared=False)
    pet = Shown("PET", "SUV", saved(tmp_path, np.full(SHAPE, 3.0), name="pet"))
    drawn = [region("circle", lps(30, 25, 4), lps(35, 25, 4))]
    found = {one.image: one for one in readings(drawn, [low, full, claimed, pet], "full")}
    assert found["low"].bias == pytest.approx(-3.5)
    assert found["full"].bias == 0
    assert np.isnan([found["deviation"].bias, found["PET"].bias]).all()


def test_a_blend_is_measured_as_it_is_shown(tmp_path: Path) -> None:
    scan, result = (saved(tmp_path, np.full(SHAPE, value), name=str(value)) for value in (100.0, 20.0))
    (found,) = readings(
        [region("circle", lps(30, 25, 4), lps(35, 25, 4))], [Shown("result", "HU", result, scan, 60.0)], None
    )
    assert found.mean == pytest.approx(52.0)


def test_what_lies_outside_of_a_volume_is_not_measured(tmp_path: Path) -> None:
    image = Shown("scan", "HU", saved(tmp_path, ramp()))
    assert readings([region("circle", lps(30, 25, 99), lps(35, 25, 99))], [image], None) == []


def test_a_profile_follows_the_line(tmp_path: Path) -> None:
    """Over a ramp: linear, between the values at its ends, as long as the line."""
    image = Shown("scan", "HU", saved(tmp_path, ramp()))
    distance, values = profile(region("line", lps(10, 20, 5), lps(20, 40, 5)), image)
    assert distance[-1] == pytest.approx(np.hypot(20, 40))
    assert values == pytest.approx(np.interp(distance, [0, distance[-1]], [100 + 20 + 500, 200 + 40 + 500]))


def test_the_spectrum_of_white_noise_is_flat_and_has_its_variance(tmp_path: Path) -> None:
    noise = 12 * np.random.default_rng(1).standard_normal(SHAPE)
    image = Shown("scan", "HU", saved(tmp_path, noise + 40))
    found = spectrum(region("rectangle", lps(2, 2, 10), lps(57, 47, 10)), image, each_side=9)
    assert found.level == pytest.approx(12, rel=0.06)
    inner = found.power[(found.frequency > 0.08) & (found.frequency < 0.24)]
    assert inner.mean() == pytest.approx(12**2 * 4, rel=0.1)
    assert inner.std() / inner.mean() < 0.15


def test_a_spectrum_says_why_there_is_none(tmp_path: Path) -> None:
    image = Shown("scan", "HU", saved(tmp_path, ramp()))
    with pytest.raises(InputError, match="square of 16 x 16 pixels"):
        spectrum(region("rectangle", lps(2, 2, 10), lps(16, 47, 10)), image)
    with pytest.raises(InputError, match="2 x 3 mm"):
        spectrum(region("rectangle", lps(2, 9, 0), lps(50, 9, 19), plane="coronal"), image)


def test_histograms_share_their_bins_and_sum_to_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    images = [
        Shown(str(level), "HU", saved(tmp_path, rng.normal(level, 5, SHAPE), name=str(level))) for level in (0, 100)
    ]
    edges, shares = histogram(region("rectangle", lps(2, 2, 10), lps(57, 47, 10)), images)
    middles = (edges[:-1] + edges[1:]) / 2
    assert {title: round(float(share @ middles)) for title, share in shares.items()} == {"0": 0, "100": 100}
    assert all(share.sum() == pytest.approx(1) for share in shares.values())


@pytest.mark.parametrize("told", [
    {}, {"id": 1, "kind": "star", "plane": "axial", "points_mm": [[0, 0, 0]] * 3},
    {"id": 1, "kind": "circle", "plane": "axial", "points_mm": [[0, 0, 0]]},
    {"id": 1, "kind": "line", "plane": "axial", "points_mm": [[0, 0, 0], [0, 0, float("nan")]]},
    {"id": 1, "kind": "line", "plane": "oblique", "points_mm": [[0, 0, 0], [0, 0, 1]]},
])  # fmt: skip
def test_what_is_no_region_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="draw it again"):
        Region.of(told)


def test_the_picture_shows_the_patients_left_on_the_right_with_its_outline(tmp_path: Path) -> None:
    """A bright box at the left anterior side; the outline goes round it, the picture says what it is not for."""
    i, j, _ = np.indices(SHAPE)
    box = (i >= 40) & (i <= 50) & (j >= 5) & (j <= 15)
    image = Shown("scan", "HU", saved(tmp_path, np.where(box, 240.0, -160.0)))
    drawn = region("rectangle", lps(40, 5, 5), lps(50, 15, 5))
    section = image.section("axial", drawn.points_mm[0])
    assert section is not None
    assert section.display()[5:16, 40:51].min() == 240
    assert outline(drawn, section).min(0) == pytest.approx([40, 5])
    png = sheet([drawn], [image], {"HU": (-160.0, 240.0)}, {("x", "y"): {"scan": (np.arange(3.0), np.arange(3.0))}})
    picture = Picture.open(io.BytesIO(png))
    assert picture.info["Description"] == "research use only, not for diagnosis"
    red, _, blue = np.moveaxis(np.asarray(picture.convert("RGB"), int)[: picture.height // 2], -1, 0)
    yellow = (red > 240) & (blue > 60) & (blue < 140)  # the outline, and a letter at each side
    left, right = np.array_split(yellow, 2, axis=1)
    assert right.sum() > 3 * left.sum() > 0
    front, back = np.array_split(right, 2)
    assert front.sum() > 3 * back.sum()
