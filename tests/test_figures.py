"""Figures: the pixels drawn are the windowed pixels given, sides are named by the geometry, files appear whole."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from skimage.io import imread

from medidiff.figures import Placement, Strip, difference_panel, panel, save, side_by_side, side_letters, strips
from medidiff.metrics.image import Preset
from medidiff.volume import Geometry


def geometry(right=(1, 0, 0), down=(0, 1, 0), spacing=(1.0, 1.0), matrix=(64, 64)) -> Geometry:
    return Geometry(np.zeros((1, 3)), np.array(right, float), np.array(down, float), spacing, matrix)


def drawn(path) -> np.ndarray:
    return imread(path)[..., :3]


def test_grey_levels_are_the_window_and_rows_run_down(tmp_path):
    """The lower edge of the window is black, its upper edge white, its middle grey; row 0 is at the top."""
    image = np.full((64, 64), -500.0)
    image[:32], image[32:, 32:] = 500, 40
    path = side_by_side({"scan": image}, tmp_path / "a.png", geometry=geometry(), window=Preset(-160, 240))
    picture = drawn(path)
    height, panel = picture.shape[0], 630  # 4.2 inches at 150 dpi
    top = height - 45 - panel - 6
    upper, left, right = picture[top + 200, 300], picture[top + 450, 200], picture[top + 450, 450]
    assert upper.tolist() == [255] * 3
    assert left.tolist() == [0] * 3
    np.testing.assert_allclose(right, 128, atol=2)


def test_the_difference_is_red_above_zero_and_white_at_zero(tmp_path):
    """The last panel shows a - b about zero."""
    a, b = np.zeros((64, 64)), np.zeros((64, 64))
    a[32:] = 60
    path = side_by_side({"a": a, "b": b}, tmp_path / "a.png", geometry=geometry(), difference=("a", "b"))
    picture = drawn(path).astype(int)
    top, column = picture.shape[0] - 45 - 636, 2 * 636 + 300
    np.testing.assert_allclose(picture[top + 200, column], 247, atol=2)  # the middle of RdBu
    red, _, blue = picture[top + 450, column]
    assert red > 2 * blue


@pytest.mark.parametrize(
    ("right", "down", "letters"),
    [
        ((1, 0, 0), (0, 1, 0), ("R", "L")),
        ((-1, 0, 0), (0, 1, 0), ("L", "R")),
        ((0, 1, 0), (0, 0, -1), ("A", "P")),
        ((0, 0, -1), (0, 1, 0), ("H", "F")),
    ],
)
def test_side_letters_follow_the_orientation(right, down, letters):
    """PS3.3 C.7.6.2.1.1: x grows to the patient's left, y to the back, z to the head; a prone scan is not mirrored."""
    assert side_letters(geometry(right, down)) == letters


def test_anisotropic_pixels_keep_their_proportions(tmp_path):
    """Pixels of 2 x 1 mm: a square in mm stays a square on paper, the panel's height is kept."""
    image = np.zeros((32, 64))
    image[8:24, 16:48] = 300
    path = side_by_side({"scan": image}, tmp_path / "a.png", geometry=geometry(spacing=(2.0, 1.0), matrix=(32, 64)))
    picture = drawn(path)
    bright = (picture[-675:-45, :630].min(-1) > 250) & (np.arange(630) > 60) & (np.arange(630) < 570)
    assert abs(int(bright[300:310].any(0).sum()) - int(bright[:, 300:310].any(1).sum())) <= 2


def test_a_failed_figure_leaves_nothing_behind(tmp_path, monkeypatch):
    """Ctrl-C while drawing: neither a half picture nor a temporary file remains, an older picture survives."""
    path = tmp_path / "a.png"
    path.write_bytes(b"older")

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("medidiff.figures.FigureCanvasAgg.print_figure", stop)
    with pytest.raises(KeyboardInterrupt):
        save(Figure(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"older"


def test_a_zoom_enlarges_its_region(tmp_path):
    """The second row is filled by the region: its only bright quarter covers a quarter of the panel."""
    image = np.full((64, 64), -500.0)
    image[20:30, 20:30] = 500
    path = side_by_side({"s": image}, tmp_path / "a.png", geometry=geometry(), zoom=(slice(20, 40), slice(20, 40)))
    zoomed = drawn(path)[-45 - 630 : -45, :630].min(-1) > 250
    assert zoomed.mean() == pytest.approx(0.25, abs=0.02)


def test_strips_are_as_tall_as_their_slices_and_dark_where_uptake_is_high(tmp_path):
    """The top of the window is black; 16 slices of 4 mm over 64 columns of 2 mm are half as tall as wide."""
    low, high = np.zeros((16, 64)), np.full((16, 64), 8.0)
    front = Strip({"low": low, "high": high}, Placement((4.0, 2.0), ("R", "L")))
    axial = Strip({"low": np.full((64, 64), 4.0), "high": np.zeros((64, 64))}, Placement((2.0, 2.0), ("R", "L")))
    path = strips([front, axial], tmp_path / "a.png", window=Preset(0, 8, unit="SUV"))
    picture = drawn(path)
    assert picture.shape[:2] == (round(150 * (4.2 + 2.1 + 2 * 0.04 + 0.3 + 0.6)), round(150 * 2 * 4.24))
    below = picture.shape[0] - 45 - 630  # the top of the lower row, which is 4.2 inches tall
    np.testing.assert_allclose(picture[below + 200, 300], 127, atol=2)
    assert picture[below - 6 - 200, 300].tolist() == [255] * 3
    assert picture[below - 6 - 200, 636 + 300].tolist() == [0] * 3
    assert picture[below - 6 - 310, 636 + 300].tolist() == [0] * 3
    assert picture[below - 6 - 325, 636 + 150].tolist() == [255] * 3  # above the strip


def test_a_panel_is_the_windowed_slice_pixel_by_pixel():
    """One grey level a pixel: (value - low) / (high - low), but for letters and the bar at the edges."""
    image = np.random.default_rng(0).uniform(-300, 400, (400, 500))
    drawn = imread(io.BytesIO(panel(image, Placement((0.8, 0.8), ("R", "L")), -160, 240)))
    assert drawn.shape == (400, 500)
    expected = np.clip((image + 160) / 400, 0, 1) * 255
    np.testing.assert_allclose(drawn[20:150, 50:450], expected[20:150, 50:450], atol=2)


def test_panels_keep_millimetres_square():
    """Pixels twice as tall as wide are shown twice as tall; a small slice is enlarged by a whole factor."""
    drawn = imread(io.BytesIO(panel(np.zeros((100, 100)), Placement((2.0, 1.0), ("R", "L")), -1, 1)))
    assert drawn.shape == (400, 200)  # twice, as 200 are too few to see


def test_a_difference_panel_is_white_at_zero_and_symmetric():
    """Red above, blue below, as far from white for +d as for -d."""
    change = np.zeros((300, 300))
    change[60:100], change[110:140] = 30, -30
    drawn = imread(io.BytesIO(difference_panel(change, Placement((1, 1), ("R", "L")), 60)))[..., :3].astype(int)
    zero, above, below = drawn[30, 150], drawn[80, 150], drawn[120, 150]
    assert zero.min() > 240
    assert above[0] > above[2] + 50
    assert below[2] > below[0] + 50
