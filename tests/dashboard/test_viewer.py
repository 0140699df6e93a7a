"""The viewer in a real browser: anatomy on the right side, linked panes, windows, values, layers, drawings, loading.

The phantom has the geometry of a CT: x towards the patient's left, y towards the back, z towards the head (LPS), so the
NIfTI affine has two minus signs. A bright box lies in the left anterior superior corner. Screen coordinates are
fractions of a pane, from its top left corner.
"""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

VIEWER = Path(__file__).resolve().parents[2] / "dashboard" / "viewer"
SPACING_MM = (2.0, 2.0, 4.0)
ORIGIN_MM = (-80.0, -140.0, 300.0)  # LPS, far from zero as in real scans
SHAPE = (64, 48, 20)  # columns, rows, slices
SIZES = {"axial": 20, "coronal": 48, "sagittal": 64}
WAIT_MS = 60_000  # other work may have the processors
PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body style="margin:0;background:#fff">
<div id="host"></div><script type="module">
import mount from "/review/static/viewer.js";
const host = document.getElementById("host");
window.told = [];
window.component = (data) => ({
  data, parentElement: window.shadow, key: "k", name: "medidiff_viewer",
  setStateValue: (name, value) => window.told.push([name, value]), setTriggerValue: () => {},
});
window.shadow = host.attachShadow({ mode: "open" });
window.mount = (data) => { window.leave = mount(window.component(data)); };
window.mount(DATA);
</script>"""


class Server:
    """Serves the viewer, volumes by name and one page; remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.page, self.asked = folder, "", []
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def routes(self) -> list[Any]:
        from starlette.requests import Request
        from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
        from starlette.routing import Mount, Route
        from starlette.staticfiles import StaticFiles

        def volume(request: Request) -> Response:
            self.asked.append(f"{request.url.path}{'?' if request.url.query else ''}{request.url.query}")
            name = request.path_params["key"] + (".first.nii" if request.url.path.endswith("/first.nii") else ".nii")
            if not name.endswith(".first.nii"):
                time.sleep(self.delay_s)
            path = self.folder / name
            return FileResponse(path) if path.exists() else PlainTextResponse("not found", 404)

        return [
            Route("/", lambda request: HTMLResponse(self.page)),
            Route("/review/volumes/{key}/first.nii", volume),
            Route("/review/volumes/{key}.nii", volume),
            Mount("/review/static", StaticFiles(directory=VIEWER)),
        ]

    @contextmanager
    def running(self) -> Iterator[Server]:
        import uvicorn
        from starlette.applications import Starlette

        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(Starlette(routes=self.routes()), log_level="error", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join()
            listening.close()


def affine_ras(spacing: tuple[float, float, float] = SPACING_MM) -> NDArray[np.float64]:
    """Of a CT: LPS directions, written as NIfTI wants them."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [-ORIGIN_MM[0], -ORIGIN_MM[1], ORIGIN_MM[2]]
    return affine


def save(folder: Path, name: str, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """The volume and its middle slice, as the dashboard's routes give them."""
    k = array.shape[2] // 2
    moved = affine.copy()
    moved[:3, 3] = (affine @ [0, 0, k, 1])[:3]
    for file, values, place in ((f"{name}.nii", array, affine), (f"{name}.first.nii", array[:, :, k : k + 1], moved)):
        image = nib.Nifti1Image(values, place)
        image.header.set_sform(place, code=1)
        nib.save(image, folder / file)


def moved(affine: NDArray[np.float64], by_mm: list[float]) -> NDArray[np.float64]:
    """Another place of the same grid."""
    found = affine.copy()
    found[:3, 3] += by_mm
    return found


def tilted() -> NDArray[np.float64]:
    """A grid of 60 x 60 x 60 voxels of 6 mm around the scan, along none of its axes."""
    turns = []
    for (a, b), degrees in {(0, 1): 25, (1, 2): 15}.items():
        turn, angle = np.eye(3), np.radians(degrees)
        turn[[a, a, b, b], [a, b, a, b]] = [np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)]
        turns.append(turn)
    affine = np.eye(4)
    affine[:3, :3] = 6 * turns[0] @ turns[1]
    middle = affine_ras() @ [*(np.array(SHAPE) - 1) / 2, 1]
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ np.full(3, 29.5)
    return affine


def uptake(x: Any, y: Any, z: Any) -> Any:
    """SUV at a position in LPS mm, without a bend: what lies between voxels is exact whatever the grid."""
    return 2.5 + x / 60 + (y + 93) / 70 + (z - 338) / 90


def ramp(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    x, y, z = np.einsum("rc,c...->r...", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    return uptake(-x, -y, z).astype(np.float32), affine


def coarse_box() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """PET of the patient's left half: each voxel is two by two by two of the scan's, stored the other way round."""
    i, j, k = np.indices((16, 24, 10))
    values = np.where((i >= 6) & (j < 8) & (k >= 4), 5, 0)
    fine_to_coarse = np.diag([2.0, 2.0, 2.0, 1.0])
    fine_to_coarse[:3, 3] = [32.5, 0.5, 0.5]
    affine = affine_ras() @ fine_to_coarse
    turned = affine.copy()
    turned[:3, 0], turned[:3, 3] = -affine[:3, 0], (affine @ [15, 0, 0, 1])[:3]
    return values[::-1].astype(np.float32), turned


def corner() -> NDArray[np.int16]:
    """Air, a faint gradient along x so that every voxel is its own, and the box of 1000 at left, anterior, superior."""
    i, j, k = np.indices(SHAPE)
    values = -1000 + i + 3 * j + 7 * k
    return np.where((i >= 44) & (j < 16) & (k >= 9), 1000, values).astype(np.int16)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("volumes")
    scan = corner()
    save(folder, "aa", scan, affine_ras())
    save(folder, "bb", np.full(SHAPE, 40, np.int16), affine_ras())
    steps = np.indices(SHAPE)[0] / SHAPE[0]
    save(folder, "cc", (200 * steps - 100).astype(np.float32), affine_ras())
    save(folder, "dd", (50 * steps).astype(np.float32), affine_ras())
    save(folder, "ee", np.full(SHAPE, 40, np.float32), affine_ras())
    save(folder, "ff", np.full(SHAPE, -40.7, np.float32), affine_ras())
    save(folder, "sd", np.where(scan == 1000, 20, 5).astype(np.float32), affine_ras())
    save(folder, "off", np.full(SHAPE, 40, np.int16), moved(affine_ras(), [0, 0, 12]))
    save(folder, "hot", *coarse_box())
    save(folder, "ramp", *ramp(affine_ras(), SHAPE))
    save(folder, "tilted", *ramp(tilted(), (60, 60, 60)))
    with Server(folder).running() as running:
        yield running


def pane(volume: str, title: str = "scan", kind: str = "image", unit: str = "HU", **layers: str) -> dict[str, Any]:
    return {"title": title, "volume": volume, "slices": SHAPE[2], "kind": kind, "unit": unit, **layers}


def described(*panes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    data = {
        "panes": list(panes), "layout": len(panes), "plane": "axial", "window": [-1000, 1000], "modality": "CT",
        "presets": {"lung": [-1350, 150], "soft": [-160, 240]}, "slice": None, "height": 480, "token": None,
    }  # fmt: skip
    return {**data, **changes}


class Screen:
    """The viewer on a page of the browser."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.root = page.locator(".medidiff-viewer")

    def reach(self, state: str) -> None:
        self.page.wait_for_selector(f".medidiff-viewer[data-state={state}]", timeout=WAIT_MS)

    def settle(self) -> None:
        """Until what was asked for is drawn."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def cell(self, k: int = 0) -> Any:
        return self.page.locator(".cell").nth(k)

    def body(self, k: int = 0) -> Any:
        return self.cell(k).locator(".body")

    def status(self, k: int = 0) -> str:
        self.settle()
        return str(self.cell(k).locator(".status").text_content())

    def number(self, k: int = 0) -> int:
        """The slice number that a pane shows, from 1."""
        return int(self.status(k).split()[1].split("/")[0])

    def press(self, key: str) -> None:
        self.root.press(key)
        self.settle()

    def point(self, x: float, y: float, k: int = 0) -> tuple[float, float]:
        box = self.body(k).bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def hover(self, x: float, y: float, k: int = 0) -> None:
        self.page.mouse.move(*self.point(x, y, k))
        self.settle()

    def drag(self, dx: float, dy: float, k: int = 0, button: str = "left") -> None:
        x, y = self.point(0.5, 0.5, k)
        self.page.mouse.move(x, y)
        self.page.mouse.down(button=button)
        self.page.mouse.move(x + dx / 2, y + dy / 2)
        self.page.mouse.move(x + dx, y + dy)
        self.page.mouse.up(button=button)
        self.settle()

    def stroke(self, *points: tuple[float, float], k: int = 0) -> None:
        """Presses at the first of these pixels of a pane, and goes to the others."""
        box = self.body(k).bounding_box()
        for number, (x, y) in enumerate(points):
            self.page.mouse.move(box["x"] + x, box["y"] + y)
            if number == 0:
                self.page.mouse.down()
        self.page.mouse.up()
        self.settle()

    def told(self, name: str) -> Any:
        """What Python heard last under a name; None before."""
        found = self.page.evaluate("(name) => window.told.filter(([told]) => told === name)", name)
        return found[-1][1] if found else None

    def slide(self, title: str, value: float) -> None:
        """Sets a slider or a number."""
        field = self.root.locator(f"input[title='{title}']")
        field.evaluate("(one, value) => { one.value = value; }", value)
        for event in ("input", "change"):
            field.dispatch_event(event)
        self.settle()

    def drawn(self, k: int = 0) -> list[str]:
        """Names of what is drawn over a pane."""
        self.settle()
        found = self.cell(k).locator(".sheet g")
        return [found.nth(n).get_attribute("data-id") for n in range(found.count())]

    def bounds(self, name: str, k: int = 0) -> NDArray[np.float64]:
        """Left, top, right and bottom of a drawing, in pixels of its pane."""
        self.settle()
        path = self.cell(k).locator(f".sheet g[data-id='{name}'] path.edge").get_attribute("d")
        numbers = np.array([float(word) for word in re.findall(r"-?\d+\.?\d*", path)]).reshape(-1, 2)
        return np.concatenate([numbers.min(axis=0), numbers.max(axis=0)])

    def window(self) -> list[float]:
        self.settle()
        return [float(value) for value in str(self.root.get_attribute("data-window")).split(",")]

    def pixels(self, k: int = 0) -> NDArray[np.float64]:
        """Grey values of a pane without the words and lines over it: (rows, columns)."""
        return self.colours(k).mean(axis=2)

    def colours(self, k: int = 0) -> NDArray[np.float64]:
        hide = "(hidden) => document.querySelector('#host').shadowRoot.querySelectorAll('.body > :not(canvas)')"
        self.page.evaluate(f"{hide}.forEach((one) => (one.style.opacity = hidden ? 0 : ''))", True)
        self.settle()
        shot = Image.open(io.BytesIO(self.body(k).screenshot())).convert("RGB")
        self.page.evaluate(f"{hide}.forEach((one) => (one.style.opacity = hidden ? 0 : ''))", False)
        return np.asarray(shot, dtype=np.float64)


@pytest.fixture
def show(browser: Any, server: Server) -> Iterator[Callable[..., Screen]]:
    """`show(data)` opens the viewer and waits for whole volumes; nothing in the browser may complain."""
    context = browser.new_context(viewport={"width": 1000, "height": 520})
    complaints: list[str] = []
    outside: list[str] = []
    expected: list[str] = []

    def open_page(data: dict[str, Any], state: str = "ready", complains: str = "") -> Screen:
        server.page = PAGE.replace("DATA", json.dumps(data))
        server.asked.clear()
        expected.append(complains)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: None if is_ours(request.url, server) else outside.append(request.url))
        page.goto(server.url)
        screen = Screen(page)
        screen.reach(state)
        screen.settle()
        return screen

    yield open_page
    server.delay_s = 0.0
    context.close()
    assert [line for line in complaints if not any(words and words in line for words in expected)] == []
    assert outside == []


def is_ours(url: str, server: Server) -> bool:
    return url.startswith((server.url, "data:", "blob:"))


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """(x, y) of what is marked, as fractions of the pane."""
    rows, columns = np.nonzero(mask)
    assert rows.size
    return float((columns.mean() + 0.5) / mask.shape[1]), float((rows.mean() + 0.5) / mask.shape[0])


# ------------------------------------------------------------------------------------------------------------- anatomy


@pytest.mark.parametrize(
    ("plane", "left_of_middle", "letters"),
    [("axial", False, "RLAP"), ("coronal", False, "RLSI"), ("sagittal", True, "APSI")],
)
def test_the_corner_is_where_a_radiologist_expects_it(
    show: Callable[..., Screen], plane: str, left_of_middle: bool, letters: str
) -> None:
    """Left anterior superior: right and up in axial (anterior up) and coronal (head up), left and up in sagittal."""
    screen = show(described(pane("aa"), plane=plane))
    corner_mm = {"axial": (0.5, 0.5), "coronal": (0.5, 0.3), "sagittal": (0.3, 0.3)}
    screen.page.mouse.click(*screen.point(*corner_mm[plane]))
    press = {"axial": [], "coronal": ["Home"], "sagittal": ["End"]}  # to the front, to the left
    for key in press[plane]:
        screen.press(key)
    x, y = middle(screen.pixels() > 200)
    assert (x < 0.5) == left_of_middle
    assert y < 0.5
    found = [screen.body().locator(f"b.{side}") for side in ("left", "right", "top", "bottom")]
    assert "".join(letter.text_content() for letter in found) == letters
    boxes = [letter.bounding_box() for letter in found]
    assert boxes[0]["x"] < boxes[1]["x"]
    assert boxes[2]["y"] < boxes[3]["y"]


@pytest.mark.parametrize(
    ("plane", "key", "size_mm"),
    [("axial", "a", (128, 96)), ("coronal", "c", (128, 80)), ("sagittal", "g", (96, 80))],
)
def test_millimetres_are_square(
    show: Callable[..., Screen], plane: str, key: str, size_mm: tuple[float, float]
) -> None:
    """Of a body of 128 x 96 x 80 mm with voxels of 2 x 2 x 4 mm the sides keep their ratio, and the bar its length."""
    screen = show(described(pane("bb"), window=[-100, 100]))
    screen.press(key)
    assert screen.root.get_attribute("data-plane") == plane
    body = screen.pixels() > 60
    width, height = body.any(axis=0).sum(), body.any(axis=1).sum()
    assert width / height == pytest.approx(size_mm[0] / size_mm[1], rel=0.02)
    bar = screen.body().locator(".scale")
    length_mm = float(bar.text_content().split()[0])
    assert bar.bounding_box()["width"] / length_mm == pytest.approx(width / size_mm[0], rel=0.03)


def test_a_scan_stored_the_other_way_round_looks_the_same(show: Callable[..., Screen], server: Server) -> None:
    """Slices from head to feet, columns from left to right and axes in another order: the patient is the same."""
    scan, affine = corner(), affine_ras()
    turned = nib.Nifti1Image(scan, affine).as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    save(server.folder, "turned", np.asarray(turned.dataobj), turned.affine)
    for plane in ("axial", "coronal", "sagittal"):
        screen = show(described(pane("aa"), pane("turned"), layout=2, plane=plane))
        first, second = screen.pixels(0), screen.pixels(1)
        assert np.abs(first - second).max() <= 2
        assert first.std() > 5


# ------------------------------------------------------------------------------------------------- position and values


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("point", [(0.42, 0.72), (0.55, 0.4), (0.6, 0.6)])
def test_the_value_under_the_mouse_is_the_voxel(
    show: Callable[..., Screen], plane: str, point: tuple[float, float]
) -> None:
    """Every voxel of the phantom below the box has a value of its own, and its place is in the status line."""
    screen = show(described(pane("aa"), plane=plane))
    screen.hover(*point)
    words = screen.status().split()
    x, y, z = float(words[3]), float(words[5]), float(words[7])
    ijk = np.linalg.inv(affine_ras()) @ [-x, -y, z, 1]
    i, j, k = np.rint(ijk[:3]).astype(int)
    assert float(words[9]) == corner()[i, j, k]
    across = {"axial": k, "coronal": j, "sagittal": i}[plane]
    assert words[1] == f"{across + 1}/{SIZES[plane]}"


def test_the_mouse_points_at_what_is_drawn_there(show: Callable[..., Screen]) -> None:
    """At the corners of the drawn box the value changes from the box to its surroundings."""
    screen = show(described(pane("aa")))
    box = screen.pixels() > 250
    rows, columns = np.nonzero(box)
    left, bottom = columns.min(), rows.max()
    height, width = box.shape
    inside = ((left + 6) / width, (bottom - 6) / height)
    screen.hover(*inside)
    assert screen.status().endswith("1000 HU")
    screen.hover((left - 10) / width, inside[1])
    assert not screen.status().endswith("1000 HU")
    screen.hover(inside[0], (bottom + 10) / height)
    assert not screen.status().endswith("1000 HU")


def test_the_panes_scroll_together(show: Callable[..., Screen]) -> None:
    """By wheel and keys, up towards the head; ten with page up, and to the ends."""
    screen = show(described(pane("aa"), pane("bb")))
    assert screen.number(0) == screen.number(1) == 11
    screen.hover(0.5, 0.5, 1)
    screen.page.mouse.wheel(0, 100)
    screen.page.wait_for_function("document.querySelector('#host').shadowRoot.querySelector('[data-slice=\"9\"]')")
    assert screen.number(0) == screen.number(1) == 10
    for key, number in [("ArrowUp", 11), ("ArrowDown", 10), ("PageDown", 1), ("Home", 20), ("PageUp", 20), ("End", 1)]:
        screen.press(key)
        assert screen.number(0) == screen.number(1) == number, key


def test_scrolling_shows_the_slice_that_it_names(show: Callable[..., Screen]) -> None:
    """The box begins at slice 10: below it is not there."""
    screen = show(described(pane("aa")))
    assert (screen.pixels() > 200).any()
    for _ in range(2):
        screen.press("ArrowDown")
    assert screen.number() == 9
    assert not (screen.pixels() > 200).any()
    screen.press("ArrowUp")
    assert (screen.pixels() > 200).any()


def test_a_click_sets_the_position_in_every_plane_and_pane(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), pane("bb")))
    screen.page.mouse.click(*screen.point(0.5, 0.25))
    screen.page.mouse.move(1, 1)
    placed = [screen.status(k).split()[3:8] for k in (0, 1)]
    assert placed[0] == placed[1]
    screen.press("c")
    y = float(placed[0][2])
    assert screen.number(0) == screen.number(1) == round((y - ORIGIN_MM[1]) / SPACING_MM[1]) + 1


def test_a_slice_can_be_asked_for(show: Callable[..., Screen]) -> None:
    """And another one while the viewer is open."""
    screen = show(described(pane("aa"), slice=3))
    assert screen.number() == 4
    screen.page.evaluate("(data) => window.mount(data)", described(pane("aa"), slice=7))
    assert screen.number() == 8


# ------------------------------------------------------------------------------------------------------ window and look


def test_dragging_right_widens_and_dragging_down_raises_the_level(show: Callable[..., Screen]) -> None:
    """For both images, which have one unit; the difference keeps its own."""
    panes = pane("aa"), pane("bb"), pane("cc", "difference", "difference")
    screen = show(described(*panes, layout=4, window=[-200, 200]))
    screen.drag(60, 0)
    low, high = screen.window()
    assert high - low > 450
    assert low + high == pytest.approx(0, abs=2)
    screen.drag(0, 60)
    raised = screen.window()
    assert raised[1] - raised[0] == pytest.approx(high - low, abs=2)
    assert sum(raised) > sum((low, high)) + 50
    ranges = [screen.cell(k).locator(".range").text_content() for k in range(3)]
    assert ranges[0] == ranges[1]
    assert ranges[2] == "±100 HU"


def test_grey_follows_the_window(show: Callable[..., Screen]) -> None:
    """40 HU in a window of -160 to 240 is the middle grey, and its complement when inverted."""
    screen = show(described(pane("bb"), window=[-160, 240]))
    grey = screen.pixels()[100:200, 450:550]
    assert np.abs(grey - 127.5).max() < 3
    screen.press("Shift+Digit1")
    assert screen.window() == [-1350, 150]
    grey = screen.pixels()[100:200, 450:550]
    assert np.abs(grey - 255 * 1390 / 1500).max() < 3
    screen.press("i")
    grey = screen.pixels()[100:200, 450:550]
    assert np.abs(grey - 255 * 110 / 1500).max() < 3


def test_pet_is_black_on_white(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("dd", unit="SUV"), window=[0, 7], modality="PT"))
    grey = screen.pixels()[200]
    inside = np.flatnonzero(grey < 128)
    assert inside.size  # 50 SUV is black
    assert grey[:20].min() > 250  # outside the image is white
    assert screen.cell().locator(".range").text_content() == "0.0 to 7.0 SUV"


def test_a_difference_is_white_at_zero_blue_below_and_red_above(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("cc", "difference", "difference")))
    row = screen.colours()[200]
    seen = np.flatnonzero(row.sum(axis=1) > 0)
    low, zero, high = row[seen[10]], row[(seen[0] + seen[-1]) // 2], row[seen[-10]]
    assert zero.min() > 235
    assert low[2] > low[0] + 40
    assert high[0] > high[2] + 40


def test_zoom_keeps_what_is_under_the_mouse_and_moving_moves(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), pane("bb")))
    screen.hover(0.6, 0.4)
    before = screen.status()
    screen.page.keyboard.down("Control")
    screen.page.mouse.wheel(0, -100)
    screen.page.keyboard.up("Control")
    screen.settle()
    place = lambda words: [float(word) for word in words.split()[3:8:2]]  # noqa: E731
    assert place(screen.status()) == pytest.approx(place(before), abs=0.2)
    assert screen.status().split()[1] == before.split()[1]
    box = middle(screen.pixels() > 200)
    screen.page.keyboard.down("Shift")
    screen.drag(-40, 30)
    screen.page.keyboard.up("Shift")
    moved = middle(screen.pixels() > 200)
    assert moved[0] < box[0]
    assert screen.window() == [-1000, 1000]
    screen.press("r")
    screen.hover(0.6, 0.4)
    assert screen.status() == before


# ---------------------------------------------------------------------------------------------------------- comparing


def test_flicker_swaps_two_images_in_place_and_back(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), pane("bb", "flat"), layout=1))
    first = screen.pixels()
    screen.press("Space")
    screen.page.wait_for_function("document.querySelector('#host').shadowRoot.querySelector('[data-image=\"1\"]')")
    second = screen.pixels()
    assert np.abs(first - second).max() > 50
    screen.press("Space")
    assert np.array_equal(screen.pixels(), first)
    screen.press("2")
    assert np.array_equal(screen.pixels(), second)


def test_holding_the_space_bar_shows_the_other_image_while_held(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), pane("bb", "flat"), layout=1))
    screen.root.focus()
    screen.page.keyboard.down("Space")
    screen.settle()
    assert screen.cell().get_attribute("data-image") == "1"
    screen.page.wait_for_timeout(400)
    screen.page.keyboard.up("Space")
    screen.settle()
    assert screen.cell().get_attribute("data-image") == "0"


def test_swipe_has_the_first_image_left_of_the_divider_and_the_second_right(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), pane("bb", "flat"), layout=1))
    first = screen.pixels()
    screen.press("2")
    screen.settle()
    second = screen.pixels()
    screen.press("1")
    screen.press("s")
    screen.reach("ready")
    cut = screen.page.locator(".divider").bounding_box()
    screen.page.mouse.move(cut["x"] + 4, cut["y"] + 100)
    screen.page.mouse.down()
    screen.page.mouse.move(600, cut["y"] + 120)
    screen.page.mouse.up()
    screen.settle()
    both = screen.pixels()
    at = int(600 - screen.body().bounding_box()["x"])
    assert np.array_equal(both[:, : at - 8], first[:, : at - 8])
    assert np.array_equal(both[:, at + 8 :], second[:, at + 8 :])
    screen.press("s")
    assert np.array_equal(screen.pixels(), first)


# ---------------------------------------------------------------------------------------------- images on one another

BOX_MM = np.array([[7.0, 47.0], [-141.0, -109.0], [334.0, 378.0]])  # edges of the box in x, y and z
WORLD = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}  # across and up
TO_THE_BOX = {"axial": [], "coronal": ["Home"], "sagittal": ["End"]}  # from the middle
STRENGTH, OPACITY, FROM = "of what was changed", "opacity of the PET", "the same as a number"


def bounds_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Left, top, right and bottom edge of what is marked, in pixels."""
    rows, columns = np.nonzero(mask)
    assert rows.size
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=float)


def is_coloured(colours: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.ptp(colours, axis=2) > 60


@pytest.mark.parametrize("result", ["bb", "ee"])
def test_the_strength_blends_the_reconstruction_with_its_scan(show: Callable[..., Screen], result: str) -> None:
    """Whole and real numbers: scan + strength (result - scan), in grey, under the mouse, in the title and to Python."""
    screen = show(described(pane("aa"), pane(result, "reconstruction", base="aa"), window=[-1000, 1000]))
    whole = screen.pixels(1)
    screen.slide(STRENGTH, 25)
    rows, columns = np.nonzero(screen.pixels(0) > 250)
    inside = slice(rows.min() + 8, rows.max() - 8), slice(columns.min() + 8, columns.max() - 8)
    value = 1000 + 0.25 * (40 - 1000)
    assert np.abs(screen.pixels(1)[inside] - 255 * (value + 1000) / 2000).max() < 1.5
    titles = screen.cell(1).locator("select").evaluate("(list) => list.selectedOptions[0].textContent")
    assert titles == "reconstruction, 25 %"
    screen.hover(0.55, 0.6)
    scan, blended = (float(screen.status(k).split()[9]) for k in (0, 1))
    assert blended == pytest.approx(scan + 0.25 * (40 - scan), abs=0.06)
    screen.page.wait_for_function("window.told.length > 0")
    assert screen.told("view")["strength"] == 25
    screen.slide(STRENGTH, 0)
    assert np.abs(screen.pixels(1) - screen.pixels(0)).max() <= 1
    screen.slide(STRENGTH, 100)
    assert np.array_equal(screen.pixels(1), whole)


def test_images_of_other_grids_are_not_blended(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("bb", "reconstruction", base="off")))
    before = screen.pixels()
    screen.slide(STRENGTH, 50)
    screen.page.wait_for_function(
        "document.querySelector('#host').shadowRoot.querySelector('.note').textContent.includes('another grid')"
    )
    assert np.array_equal(screen.pixels(), before)
    assert "50" not in screen.cell().locator("select").text_content()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_what_deviates_is_tinted_where_it_lies(show: Callable[..., Screen], plane: str) -> None:
    """20 HU in the box, 5 HU around it: tinted from 20 on, not from 21, and all of it from 5 on."""
    screen = show(described(pane("bb", overlay="sd"), pane("aa"), plane=plane))
    for key in TO_THE_BOX[plane]:
        screen.press(key)
    assert not is_coloured(screen.colours(0)).any()
    screen.press("u")
    screen.reach("ready")
    box = screen.pixels(1) > 127
    tinted = is_coloured(screen.colours(0))
    assert np.abs(bounds_of(tinted) - bounds_of(box)).max() <= 6  # a pixel of the scan is 3.5 to 7 of the screen
    assert np.mean(tinted[box]) > 0.98
    for threshold, share in ((20, np.mean(tinted)), (20.5, 0), (5, np.mean(screen.pixels(1) > 0))):
        screen.slide(FROM, threshold)
        assert np.mean(is_coloured(screen.colours(0))) == pytest.approx(share, abs=0.02)
    screen.page.wait_for_function("window.told.length > 0 && window.told.at(-1)[1].threshold === 5")
    screen.press("u")
    assert not is_coloured(screen.colours(0)).any()


def test_the_deviation_stands_beside_the_value(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("bb", overlay="sd")))
    screen.press("u")
    screen.reach("ready")
    screen.hover(0.5, 0.7)
    assert screen.status().endswith("40 HU ± 5.0")


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_pet_of_another_grid_lies_where_it_belongs(show: Callable[..., Screen], plane: str) -> None:
    """Voxels of twice the size, stored from left to right, of the left half alone: hot in the corner of the scan."""
    screen = show(described(pane("bb", fused="hot"), pane("aa"), plane=plane))
    for key in TO_THE_BOX[plane]:
        screen.press(key)
    box = screen.pixels(1) > 127
    hot = screen.colours(0)[:, :, 0] - screen.colours(0)[:, :, 2] > 60
    hot |= screen.colours(0).min(axis=2) > 200  # white is the hottest
    # Between its voxels a PET fades over two pixels of the scan; the box begins within one of them along z.
    left, top, right, bottom = bounds_of(box)
    pixels_a_mm = (right - left) / np.ptp(BOX_MM[WORLD[plane][0]])
    reach = [2.2 * pixels_a_mm * SPACING_MM[axis] for axis in WORLD[plane]] * 2
    assert np.all(np.abs(bounds_of(hot) - [left, top, right, bottom]) <= reach)
    assert np.mean(hot[box]) > 0.8
    screen.slide(OPACITY, 0)
    assert not is_coloured(screen.colours(0)).any()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_pet_is_the_same_on_an_oblique_grid(show: Callable[..., Screen], plane: str) -> None:
    """Uptake without a bend, sampled on the scan's own grid and on a tilted one; and its value under the mouse."""
    screen = show(described(pane("bb", fused="ramp"), pane("bb", "tilted", fused="tilted"), plane=plane))
    straight, oblique = screen.colours(0), screen.colours(1)
    assert is_coloured(straight).mean() > 0.2
    assert np.abs(straight - oblique).max() <= 6  # a level of the hot colours is up to 3 of 255
    for spot in ((0.4, 0.45), (0.6, 0.55)):
        screen.hover(*spot)
        for k in (0, 1):
            words = screen.status(k).split()
            assert float(words[11]) == pytest.approx(uptake(*(float(words[n]) for n in (3, 5, 7))), abs=0.01)


def test_a_ct_under_a_pet_is_white_on_black(show: Callable[..., Screen]) -> None:
    """In a case of PET, which is black on white."""
    panes = pane("dd", unit="SUV"), pane("aa", fused="hot")
    screen = show(described(*panes, modality="PT", window=[0, 7]))
    assert screen.pixels(0)[:, :5].min() > 250  # no uptake
    assert screen.pixels(1)[:, :5].max() < 5  # air
    assert "PET 0.0 to 5.0 SUV" in screen.cell(1).locator(".range").text_content()
    screen.slide("hottest from", 10)
    assert "PET 0.0 to 10.0 SUV" in screen.cell(1).locator(".range").text_content()


def test_an_image_that_does_not_reach_to_the_position_says_so(show: Callable[..., Screen]) -> None:
    """The other one ends 12 mm higher, and nothing of it is shown under a wrong position."""
    screen = show(described(pane("aa"), pane("off", "other")))
    screen.press("End")
    assert screen.cell(1).locator(".note").text_content() == "this position lies outside of the image"
    assert screen.pixels(1).max() == 0
    screen.press("PageUp")
    assert screen.cell(1).locator(".note").text_content() == ""
    assert screen.pixels(1).max() > 0


# ------------------------------------------------------------------------------------------------------------ drawings

ALL = ["circle", "rectangle", "freehand", "line", "mark"]


def box_of(plane: str, through_mm: float) -> dict[str, Any]:
    """The box of the phantom as a rectangle in a plane, in a slice that holds it."""
    a, b = WORLD[plane]
    points = np.full((2, 3), through_mm)
    points[:, a], points[:, b] = BOX_MM[a], BOX_MM[b]
    return {"id": "R7", "kind": "rectangle", "plane": plane, "slice": 0, "points_mm": points.tolist()}


def enlarged(screen: Screen, k: int = 0) -> None:
    """Zoomed, and moved so that the box is in the middle of the pane."""
    screen.hover(0.5, 0.5, k)
    screen.page.keyboard.down("Control")
    screen.page.mouse.wheel(0, -60)
    screen.page.keyboard.up("Control")
    left, top, right, bottom = bounds_of(screen.pixels(k) > 127)
    size = screen.body(k).bounding_box()
    screen.page.keyboard.down("Shift")
    screen.drag((size["width"] - left - right) / 2, (size["height"] - top - bottom) / 2, k)
    screen.page.keyboard.up("Shift")


@pytest.mark.parametrize(("plane", "through_mm"), [("axial", 340.0), ("coronal", -140.0), ("sagittal", 46.0)])
def test_a_region_lies_over_what_it_was_drawn_around(
    show: Callable[..., Screen], plane: str, through_mm: float
) -> None:
    """The edges of the box in mm, from Python: over its pixels in both panes, as it comes and zoomed and moved."""
    screen = show(described(pane("aa"), pane("aa", "same"), plane=plane, tools=ALL, rois=[box_of(plane, through_mm)]))
    for key in TO_THE_BOX[plane]:
        screen.press(key)
    for k in (0, 1):
        assert np.abs(screen.bounds("R7", k) - bounds_of(screen.pixels(k) > 127)).max() < 3
    enlarged(screen)
    for k in (0, 1):
        box = bounds_of(screen.pixels(k) > 127)
        assert np.abs(screen.bounds("R7", k) - box).max() < 3
        assert box[:2].min() > 5  # all of it is on screen


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_points_of_a_region_are_where_it_was_drawn(show: Callable[..., Screen], plane: str) -> None:
    """Drawn around the box on screen, zoomed and moved, in the second pane: its edges within half a voxel."""
    screen = show(described(pane("bb"), pane("aa"), plane=plane, tools=ALL))
    for key in TO_THE_BOX[plane]:
        screen.press(key)
    enlarged(screen, 1)
    left, top, right, bottom = bounds_of(screen.pixels(1) > 127)
    screen.press("b")
    screen.stroke((left, top), (left + 20, top + 9), (right, bottom), k=1)
    (roi,) = screen.told("rois")
    assert (roi["id"], roi["kind"], roi["plane"], roi["slice"]) == ("R1", "rectangle", plane, screen.number(1) - 1)
    points = np.sort(np.array(roi["points_mm"]), axis=0)
    for axis in WORLD[plane]:
        assert np.abs(points[:, axis] - BOX_MM[axis]).max() <= SPACING_MM[axis] / 2
    (through,) = {0, 1, 2} - set(WORLD[plane])
    expected = ORIGIN_MM[through] + SPACING_MM[through] * roi["slice"]
    assert points[:, through] == pytest.approx([expected] * 2, abs=0.01)


def test_every_tool_draws_what_it_says(show: Callable[..., Screen]) -> None:
    """By key and by button; the window stays while one is on, and follows the mouse again after escape."""
    screen = show(described(pane("aa"), tools=ALL))
    screen.press("o")
    screen.stroke((200, 200), (210, 205), (230, 240))
    screen.press("f")
    screen.stroke((300, 100), (340, 110), (360, 150), (320, 160))
    screen.root.get_by_role("button", name="line").click()
    screen.stroke((100, 300), (150, 300), (200, 300))
    assert screen.window() == [-1000, 1000]
    circle, freehand, line = screen.told("rois")
    assert [roi["kind"] for roi in (circle, freehand, line)] == ["circle", "freehand", "line"]
    assert [len(roi["points_mm"]) for roi in (circle, freehand, line)] == [2, 4, 2]
    scale = 100 / np.ptp(np.array(line["points_mm"])[:, 0])  # pixels a mm
    radius = np.linalg.norm(np.subtract(*circle["points_mm"]))
    assert radius * scale == pytest.approx(50, abs=0.5)
    assert screen.bounds("R1") == pytest.approx([150, 150, 250, 250], abs=0.5)
    assert screen.bounds("R2") == pytest.approx([300, 100, 360, 160], abs=0.5)
    label = screen.cell().locator(".sheet g[data-id='R3'] text").text_content()
    assert label == f"R3 {100 / scale:.1f} mm"
    screen.press("Escape")
    screen.drag(60, 0)
    assert screen.window() != [-1000, 1000]
    assert len(screen.told("rois")) == 3


def test_a_region_is_seen_on_its_own_slice_of_its_own_plane(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), pane("bb"), tools=ALL))
    screen.press("o")
    screen.stroke((100, 100), (120, 120))
    assert screen.drawn(0) == screen.drawn(1) == ["R1"]
    before = screen.bounds("R1")
    for key in ("ArrowUp", "c", "g"):
        screen.press(key)
        assert screen.drawn(0) == screen.drawn(1) == [], key
    screen.press("a")
    screen.press("ArrowDown")
    assert screen.drawn(0) == screen.drawn(1) == ["R1"]
    assert screen.bounds("R1") == pytest.approx(before, abs=0.1)


def test_a_region_can_be_moved_and_deleted(show: Callable[..., Screen]) -> None:
    """By its edge, with the tool off; its size stays, and it can be given up half-way."""
    screen = show(described(pane("aa"), tools=ALL))
    screen.press("b")
    screen.stroke((100, 100), (160, 140))
    screen.stroke((300, 200), (350, 260))
    screen.press("Escape")
    screen.press("Escape")
    screen.stroke((130, 100), (140, 110), (170, 130))
    assert screen.bounds("R1") == pytest.approx([140, 130, 200, 170], abs=0.2)
    assert screen.bounds("R2") == pytest.approx([300, 200, 350, 260], abs=0.2)
    first = np.array(screen.told("rois")[0]["points_mm"])
    assert np.ptp(first[:, 2]) == 0
    assert screen.window() == [-1000, 1000]
    box = screen.body().bounding_box()
    screen.page.mouse.move(box["x"] + 140, box["y"] + 150)
    screen.page.mouse.down()
    screen.page.mouse.move(box["x"] + 200, box["y"] + 150)
    screen.press("Escape")
    screen.page.mouse.up()
    assert screen.bounds("R1") == pytest.approx([140, 130, 200, 170], abs=0.2)
    screen.press("Delete")
    assert screen.drawn() == ["R2"]
    assert [roi["id"] for roi in screen.told("rois")] == ["R2"]
    screen.press("o")
    screen.stroke((100, 300), (130, 300))
    assert screen.drawn() == ["R2", "R3"]


def test_what_there_is_no_tool_for_stays_as_it_is(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), rois=[box_of("axial", 340.0)]))
    left, top, right, bottom = screen.bounds("R7")
    screen.stroke(((left + right) / 2, top), ((left + right) / 2 + 40, top))
    assert screen.bounds("R7") == pytest.approx([left, top, right, bottom])
    assert screen.window() != [-1000, 1000]
    assert screen.told("rois") is None


def test_a_run_of_the_page_keeps_what_was_drawn(show: Callable[..., Screen]) -> None:
    """The same data again; what Python heard first, when more was drawn since; and what Python itself changes."""
    data = described(pane("aa"), tools=ALL)
    screen = show(data)
    screen.press("b")
    for left in (100, 200, 300):
        screen.stroke((left, 100), (left + 40, 140))
    three = screen.told("rois")
    again = lambda **changes: screen.page.evaluate("(data) => window.mount(data)", {**data, **changes})  # noqa: E731
    again()
    assert screen.drawn() == ["R1", "R2", "R3"]
    again(rois=three[:1])
    assert screen.drawn() == ["R1", "R2", "R3"]
    again(rois=three)
    assert screen.drawn() == ["R1", "R2", "R3"]
    again(rois=three[1:])
    assert screen.drawn() == ["R2", "R3"]


LEVELS = ["unsure", "probable", "certain"]


def test_a_mark_has_its_pane_its_place_and_a_confidence(show: Callable[..., Screen]) -> None:
    """Told at once; changed by a button and by keys; seen in its pane on slices within 5 mm."""
    screen = show(described(pane("aa", "A"), pane("bb", "B"), tools=["mark"], mark_levels=LEVELS))
    screen.press("m")
    x, y = screen.point(0.62, 0.4, 1)
    screen.page.mouse.click(x, y)
    (mark,) = screen.told("marks")
    words = screen.status(1).split()
    assert mark["position_mm"] == pytest.approx([float(words[n]) for n in (3, 5, 7)], abs=0.06)
    rest = {name: mark[name] for name in ("id", "slice", "plane", "pane", "confidence")}
    assert rest == {"id": "M1", "slice": 10, "plane": "axial", "pane": 1, "confidence": 2}
    assert (screen.drawn(0), screen.drawn(1)) == ([], ["M1"])
    screen.root.get_by_role("button", name="certain").click()
    assert screen.told("marks")[0]["confidence"] == 3
    screen.press("-")
    screen.press("-")
    assert screen.told("marks")[0]["confidence"] == 1
    assert screen.cell(1).locator(".sheet text").text_content() == "M1 unsure"
    for key, names in (("ArrowUp", ["M1"]), ("ArrowUp", []), ("ArrowDown", ["M1"])):
        screen.press(key)
        assert screen.drawn(1) == names, key
    screen.page.mouse.click(x, y)  # on the mark: chosen, and no second one
    assert len(screen.told("marks")) == 1
    screen.press("Delete")
    assert screen.told("marks") == []
    assert screen.drawn(1) == []


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_mark_is_drawn_at_its_position(show: Callable[..., Screen], plane: str) -> None:
    """In the middle of the box, in every plane."""
    position = BOX_MM.mean(axis=1)
    mark = {"id": "M4", "slice": 0, "plane": "axial", "position_mm": position.tolist(), "pane": 0, "confidence": 1}
    index = {"axial": 14, "coronal": 8, "sagittal": 53}[plane]
    screen = show(described(pane("aa"), plane=plane, slice=index, marks=[mark], mark_levels=LEVELS))
    box = bounds_of(screen.pixels() > 127)
    ring = screen.cell().locator(".sheet g[data-id='M4'] circle.edge")
    found = [float(ring.get_attribute(name)) for name in ("cx", "cy")]
    assert found == pytest.approx([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], abs=2)


def test_a_mark_set_while_swiping_belongs_to_the_image_under_it(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa", "A"), pane("bb", "B"), layout=1, tools=["mark"], mark_levels=LEVELS))
    screen.press("s")
    screen.reach("ready")
    screen.press("m")
    for x in (0.35, 0.65):
        screen.page.mouse.click(*screen.point(x, 0.5))
    assert [mark["pane"] for mark in screen.told("marks")] == [0, 1]


def test_nothing_but_its_title_tells_a_blind_image_apart(show: Callable[..., Screen]) -> None:
    """No list of images, no blending, no deviation; real and whole numbers have as many digits."""
    panes = pane("aa", "A"), pane("ff", "B", base="aa", overlay="sd")
    screen = show(described(*panes, is_blind=True))
    for k, title in enumerate("AB"):
        assert not screen.cell(k).locator("select").is_visible()
        assert screen.cell(k).locator("span.title").text_content() == title
    assert not screen.root.get_by_text("strength").is_visible()
    assert not screen.root.get_by_text("uncertainty", exact=True).is_visible()
    screen.hover(0.5, 0.6)
    assert [re.sub(r"-?\d+ HU", "n HU", screen.status(k).split("mm")[1]) for k in (0, 1)] == ["   n HU"] * 2
    screen.press("Space")
    assert [screen.cell(k).locator("span.title").text_content() for k in (0, 1)] == ["B", "A"]


# ------------------------------------------------------------------------------------------------- loading and telling


def test_first_slices_are_asked_for_before_any_volume(show: Callable[..., Screen], server: Server) -> None:
    """And shown: the browser's own marks say when."""
    server.delay_s = 0.5
    screen = show(described(pane("aa"), pane("bb")))
    assert sorted(server.asked[:2]) == ["/review/volumes/aa/first.nii", "/review/volumes/bb/first.nii"]
    assert server.asked[2:] == ["/review/volumes/aa.nii", "/review/volumes/bb.nii"]
    marks = screen.page.evaluate("performance.getEntriesByType('mark').map((m) => [m.name, m.startTime])")
    times = dict(marks)
    assert times["medidiff-first"] < times["medidiff-ready"]


def test_the_volume_replaces_the_slice_without_a_change_of_view(show: Callable[..., Screen], server: Server) -> None:
    server.delay_s = 4.0
    screen = show(described(pane("aa")), "first")
    screen.drag(-40, 20)
    screen.hover(0.6, 0.4)
    screen.page.keyboard.down("Control")
    screen.page.mouse.wheel(0, -100)
    screen.page.keyboard.up("Control")
    screen.settle()
    window, status, before = screen.window(), screen.status(), screen.pixels()
    assert screen.root.get_attribute("data-state") == "first"
    assert "loading" in status
    screen.reach("ready")
    screen.settle()
    assert np.array_equal(screen.pixels(), before)
    assert screen.window() == window
    assert screen.status() == status.split("   loading")[0]


def test_an_image_that_cannot_be_loaded_is_one_sentence_in_its_pane(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), pane("missing", "full dose")), complains="404")
    assert screen.cell(1).get_attribute("data-state") == "error"
    note = screen.cell(1).locator(".note")
    assert note.text_content() == "“full dose” could not be loaded: the server says 404."
    assert note.is_visible()
    assert screen.cell(0).get_attribute("data-state") == "ready"


def test_python_hears_once_when_the_reader_has_stopped(show: Callable[..., Screen]) -> None:
    """Nothing at the start; then the last of ten changes, in LPS millimetres."""
    screen = show(described(pane("aa"), pane("bb")))
    screen.page.wait_for_timeout(700)
    assert screen.page.evaluate("window.told") == []
    for _ in range(5):
        screen.press("ArrowUp")
    screen.page.wait_for_function("window.told.length > 0")
    screen.page.wait_for_timeout(700)
    told = screen.page.evaluate("window.told")
    assert len(told) == 1
    name, view = told[0]
    assert name == "view"
    assert {key: view[key] for key in ("slice", "plane", "window", "layout")} == {
        "slice": 15, "plane": "axial", "window": [-1000, 1000], "layout": 2,
    }  # fmt: skip
    assert view["position_mm"] == pytest.approx(np.array(ORIGIN_MM) + np.array(SPACING_MM) * [32, 24, 15])


def test_a_second_run_of_the_page_leaves_the_view_alone(show: Callable[..., Screen], server: Server) -> None:
    """Streamlit calls the component again with what it had; only what changed is taken, nothing is loaded again."""
    data = described(pane("aa"), pane("bb"))
    screen = show(data)
    screen.press("PageDown")
    screen.drag(50, 0)
    window, asked = screen.window(), len(server.asked)
    screen.page.evaluate("(data) => { window.leave(); window.mount(data); }", data)
    screen.settle()
    assert (screen.number(), screen.window(), len(server.asked)) == (1, window, asked)
    screen.page.evaluate("(data) => window.mount(data)", {**data, "plane": "coronal"})
    screen.settle()
    assert screen.root.get_attribute("data-plane") == "coronal"
    assert screen.window() == window


def test_leaving_takes_everything_away(show: Callable[..., Screen]) -> None:
    screen = show(described(pane("aa"), pane("bb")))
    screen.press("ArrowUp")
    screen.page.evaluate("window.leave()")
    screen.page.wait_for_selector(".medidiff-viewer", state="detached", timeout=WAIT_MS)
    screen.page.wait_for_timeout(700)
    assert screen.page.evaluate("window.told") == []


def test_a_token_is_shown_with_every_volume(show: Callable[..., Screen], server: Server) -> None:
    show(described(pane("aa"), token="a secret"))
    assert server.asked == ["/review/volumes/aa/first.nii?token=a%20secret", "/review/volumes/aa.nii?token=a%20secret"]


def test_it_says_that_it_is_no_medical_device(show: Callable[..., Screen]) -> None:
    words = show(described(pane("aa"))).page.locator(".disclaimer")
    assert words.text_content() == "research use only, not for diagnosis"
    assert words.is_visible()


SCROLLING = """async (seconds) => {
  const root = document.querySelector("#host").shadowRoot.querySelector(".medidiff-viewer");
  const body = root.querySelector(".body");
  const [frames, start] = [Number(root.dataset.frames), performance.now()];
  let down = true;
  while (performance.now() - start < 1000 * seconds) {
    if (/slice (1|40)\\//.test(root.querySelector(".status").textContent)) down = !down;
    body.dispatchEvent(new WheelEvent("wheel", { deltaY: down ? 100 : -100, bubbles: true, cancelable: true }));
    await new Promise(requestAnimationFrame);
  }
  return (Number(root.dataset.frames) - frames) / ((performance.now() - start) / 1000);
}"""


def test_scrolling_two_full_slices_is_fluent(show: Callable[..., Screen], server: Server) -> None:
    """512 x 512 x 40, twice, without a graphics card on what other work leaves of two processors: 15 to 22 frames/s.

    NiiVue alone, which colours by shader and computes gradients, made 3: the bound tells the two apart and no more.
    """
    noise = np.random.default_rng(0).integers(-1000, 1000, (512, 512, 40), dtype=np.int16)
    for name in ("large", "larger"):
        save(server.folder, name, noise, affine_ras((0.8, 0.8, 2.0)))
    panes = [{**pane(name), "slices": 40} for name in ("large", "larger")]
    rate = show(described(*panes)).page.evaluate(SCROLLING, 2)
    print(f"{rate:.1f} frames a second")
    assert rate > 5
