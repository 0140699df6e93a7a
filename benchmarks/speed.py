"""How fast is it, against what, how near to what the machine can do, and what eats the rest?

    python benchmarks/speed.py [--only floor peers folder linear half] [--slices 100] [--write]

    floor    arithmetic and bytes of every layer of the embedded network, the machine's own peaks (matrix product,
             memory copy) measured between the runs of the network, and where the time of a slice goes
    peers    a 512 x 512 slice through every mode and engine of medidiff, and through networks of the literature
    folder   `medidiff reconstruct` of a DICOM folder, from the start of the program to its end
    linear   the same for 50, 200 and 800 slices
    half     peers and folder in bfloat16, for processors that have it

Single precision but for `half`, channels last, all threads that torch takes (OMP_NUM_THREADS), every measurement in a
process of its own. Times are medians; a network of the literature is timed for one evaluation, times their number; the
peak is the highest rate of any run, in the precision of the row. Let nothing else run. With --write the figures go to
docs/speed.json, and from there (those of parts that were run earlier too) into docs/speed.md and the README. MONAI's
network needs `pip install einops`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from pydicom.uid import generate_uid
from torch import Tensor, nn
from torch.nn import functional as F

from medidiff.inference.engine import network_inputs, prepare, slices_at_once
from medidiff.inference.methods import Learned, load_method
from medidiff.inference.options import Options
from medidiff.model import Model, load
from medidiff.networks.plain import REDCNN
from medidiff.networks.unet import UNet

ROOT = Path(__file__).resolve().parents[1]
PAGE, FIGURES, README = ROOT / "docs" / "speed.md", ROOT / "docs" / "speed.json", ROOT / "README.md"
SAMPLE = ROOT / "data_samples" / "ct" / "low_dose"
BEGIN, END = "<!-- begin: benchmarks/speed.py {} -->", "<!-- end -->"
SIDE, LONG, REPEATS = 512, 2.0, 7
PARTS = ("floor", "peers", "folder", "linear", "half")
HALF = ":bf16"  # behind the name of what is measured
LINEAR = (50, 200, 800)


def convolutions(*widths: int, then: type[nn.Module] = nn.Identity) -> nn.Sequential:
    """3 x 3 convolutions with ReLU from width to width, each followed by `then`."""
    parts = [(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True), then()) for a, b in pairwise(widths)]
    return nn.Sequential(*(part for three in parts for part in three))


class Halve(nn.AvgPool2d):
    def __init__(self) -> None:
        super().__init__(2)


class CoreDiffSized(nn.Module):
    """A U-Net of the sizes that CoreDiff publishes (Gao et al. 2023, IEEE Trans. Med. Imaging 43:745).

    2 convolutions of 64 channels, 3 of 128 and 6 of 256 at half the side each, then 3 of 128 and 2 of 64; means of
    2 x 2 down, transposed 2 x 2 up, skips are sums. At four places the step enters, scaled and shifted by what a small
    network sees in two images.
    """

    PLACES = (64, 128, 128, 64)

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.ModuleList(nn.Linear(32, width) for width in self.PLACES)
        self.adjust = nn.ModuleList(
            nn.Sequential(convolutions(2, 32, 64, 128, then=Halve), nn.Conv2d(128, 2 * width, 1))
            for width in self.PLACES
        )
        self.down = nn.ModuleList(
            [convolutions(3, 64, 64), convolutions(64, *[128] * 3), convolutions(128, *[256] * 6)]
        )
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in (128, 64))
        self.up = nn.ModuleList([convolutions(*[128] * 4), convolutions(*[64] * 3)])
        self.head = nn.Conv2d(64, 1, 1)

    def forward(self, x: Tensor, step: Tensor, two: Tensor) -> Tensor:
        shifts = []
        for enter, adjust in zip(self.step, self.adjust, strict=True):
            gain, shift = adjust(two).mean((2, 3), keepdim=True).chunk(2, dim=1)
            shifts.append(gain * enter(step)[:, :, None, None] + shift)
        skips = [self.down[0](x)]
        for stage, shift in zip(self.down[1:], shifts[:2], strict=True):
            skips.append(stage(F.avg_pool2d(skips[-1], 2) + shift))
        h = skips.pop()
        for enlarge, stage, shift in zip(self.enlarge, self.up, shifts[2:], strict=True):
            h = stage(skips.pop() + enlarge(h) + shift)
        return self.head(h) + x[:, 1:2]


def monai_unet() -> nn.Module:
    """MONAI's network with the widths of its MAISI recipe; attention at the lowest level only, to be affordable."""
    from monai.networks.nets import DiffusionModelUNet

    return DiffusionModelUNet(
        2, 2, 1, num_res_blocks=2, channels=(64, 128, 256, 512), attention_levels=(False, False, False, True),
        num_head_channels=(0, 0, 0, 32),
    )  # fmt: skip


def image(channels: int) -> Tensor:
    return torch.randn(1, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


# name, network, its inputs, evaluations a slice
PEERS: dict[str, tuple[str, Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], int]] = {
    "redcnn": ("RED-CNN (Chen 2017)", REDCNN, lambda: (image(1),), 1),
    "corediff": ("CoreDiff-sized U-Net", CoreDiffSized, lambda: (image(3), torch.zeros(1, 32), image(2)), 10),
    "monai": ("MONAI DiffusionModelUNet, DDIM", monai_unet, lambda: (image(2), torch.zeros(1)), 50),
}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "quantitative": ("**medidiff quantitative**", {}),
    "plain": ("the same, plain torch", {"plain": True}),
    "openvino": ("the same, OpenVINO", {"engine": "openvino"}),
    "texture": ("medidiff texture", {"mode": "texture"}),
    "uncertainty": ("medidiff uncertainty", {"mode": "uncertainty"}),
}
IN_HALF = ("quantitative", "texture", "uncertainty")


def slab(height: int) -> np.ndarray:
    """Slices of the sample study, in HU."""
    files = [pydicom.dcmread(SAMPLE / f"{k + 4:04d}.dcm") for k in range(height)]
    return np.stack([f.pixel_array.astype(np.float32) + float(f.RescaleIntercept) for f in files])


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def matrix_rate(dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Operations a second of a matrix product, the best of ten."""
    a = torch.randn(size, size).to(dtype)
    return 2 * size**3 / min(timed(lambda: a @ a) for _ in range(10))


def copy_rate(size: int = 2**25) -> float:
    """Bytes a second, read and written, of a copy of 128 MiB."""
    a = torch.zeros(size)
    b = torch.zeros(size)
    return 8 * size / min(timed(lambda: b.copy_(a)) for _ in range(5))


def peak_memory_mb(who: int = resource.RUSAGE_SELF) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def measured(work: Callable[[], object], dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Seconds of `work`, memory, and the machine's peak between its runs."""
    first = timed(work)
    memory = peak_memory_mb()
    times, rates = [], [matrix_rate(dtype)]
    for _ in range(REPEATS if first < LONG else 3):
        times.append(timed(work))
        rates.append(matrix_rate(dtype))
    return {"seconds": statistics.median(times), "memory_mb": memory, "peak": max(rates)}


def operations(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Floating-point operations of one evaluation, a multiplication and an addition being two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


def inputs_of(model: Model) -> tuple[Tensor, ...]:
    """What the denoiser gives its network for a slice of the sample study, as ordinary tensors."""
    return tuple(x.clone() for x in network_inputs(model, slab(model.slab)))


def precision_of(name: str) -> tuple[str, torch.dtype]:
    return name.removesuffix(HALF), torch.bfloat16 if name.endswith(HALF) else torch.float32


def ours(name: str) -> dict[str, Any]:
    """A slice from HU to HU: noise level, network, scaling back, blend."""
    name, dtype = precision_of(name)
    title, asked = OURS[name]
    if dtype == torch.bfloat16:
        asked = asked | {"precision": "bf16"}
    model = load("ct")
    count = operations(model.denoiser.network, inputs_of(model))
    if asked.get("plain"):
        method: Any = Learned(model, Options())
    else:
        method = load_method(Options(**asked))
    restorer, slices = method.for_case("speed"), slab(method.slab)
    found = measured(lambda: restorer.slice(0, slices), dtype)
    return {"name": title, "nfe": method.nfe, "gflop": count * method.nfe / 1e9, **found}


def peer(name: str) -> dict[str, Any]:
    """A slice through a network of the literature with untrained weights, as many times as it needs."""
    name, dtype = precision_of(name)
    title, make, inputs, nfe = PEERS[name]
    torch.manual_seed(0)
    network = make().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    args = tuple(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs())
    count = operations(network, args)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = measured(lambda: network(*args), dtype)
    found["seconds"] *= nfe
    return {"name": title, "nfe": nfe, "gflop": count * nfe / 1e9, **found}


def floor() -> dict[str, Any]:
    """Layers of the embedded network, peaks, and where the time of a slice goes."""
    model = load("ct")
    network, inputs = model.denoiser.network, inputs_of(model)
    assert isinstance(network, UNet)
    layers = list(layer_costs(network, inputs))
    plain = measured_inference(lambda: network(*inputs))
    engine = prepare(model)
    fused = measured_inference(lambda: model.denoiser.network(*inputs))
    method = load_method(Options())
    restorer, slices = method.for_case("speed"), slab(method.slab)
    whole = measured(lambda: restorer.slice(0, slices))
    return {
        "engine": engine,
        "layers": layers,
        "copy": copy_rate(),
        "peak": max(plain["peak"], fused["peak"], whole["peak"]),
        "plain": plain | {"shares": shares(lambda: network(*inputs))},
        "fused": fused | {"shares": shares(lambda: model.denoiser.network(*inputs))},
        "slice": whole["seconds"],
        "around": around(model, slices),
    }


def measured_inference(work: Callable[[], object]) -> dict[str, float]:
    with torch.inference_mode():
        return measured(work)


def layer_costs(network: UNet, inputs: tuple[Tensor, ...]) -> Iterator[dict[str, Any]]:
    """Arithmetic and bytes of every convolution, added up by size of image."""
    found: dict[int, dict[str, Any]] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        row = found.setdefault(out.shape[-1], {"side": out.shape[-1], "layers": 0, "gflop": 0.0, "mb": 0.0})
        row["layers"] += 1
        row["gflop"] += 2 * layer.weight.numel() * out[0, 0].numel() / 1e9  # type: ignore[union-attr, operator]
        row["mb"] += 4 * (given[0].numel() + out.numel() + layer.weight.numel()) / 1e6  # type: ignore[union-attr, operator]

    hooks = [part.register_forward_hook(note) for part in network.modules() if isinstance(part, nn.Conv2d)]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    yield from sorted(found.values(), key=lambda row: -row["side"])


KINDS = {
    "convolution": ("convolution",),
    "layout conversion": ("copy_", "to_dense", "reorder"),
    "elementwise": ("clamp", "add", "mul", "relu", "cat"),
}


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Share of the time by kind of operation; "Python and the rest" is what no operation accounts for."""
    from torch.profiler import ProfilerActivity, profile

    with torch.inference_mode():
        work()
        with profile(activities=[ProfilerActivity.CPU]) as run:
            seconds = timed(work)
    found = dict.fromkeys(KINDS, 0.0)
    for event in run.key_averages():
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), None)
        if kind:
            found[kind] += event.self_cpu_time_total / 1e6 / seconds
    return found | {"Python and the rest": max(1 - sum(found.values()), 0.0)}


def around(model: Model, slices: np.ndarray) -> dict[str, float]:
    """Seconds of what surrounds the network, one by one."""
    from medidiff.diffusion.denoiser import local_mean, squash
    from medidiff.noise.level import noise_estimate
    from medidiff.noise.traits import traits_of

    y = slices[len(slices) // 2]
    estimate = noise_estimate(y)
    with torch.inference_mode():
        cond = model.condition(slices)
        work: dict[str, Callable[[], object]] = {
            "noise level and colour": lambda: noise_estimate(y),
            "range check": lambda: traits_of(y, estimate),
            "scaling to noise levels": lambda: squash((cond.slab - local_mean(cond.y)) / cond.r[0]),
        }
        return {name: statistics.median(timed(one) for _ in range(REPEATS)) for name, one in work.items()}


def write_folder(folder: Path, slices: int) -> None:
    """A series of `slices` slices of the sample study, over and over, 3 mm apart (JPEG-LS, as there)."""
    files = sorted(SAMPLE.glob("*.dcm"))
    series = generate_uid(entropy_srcs=["medidiff", "speed"])
    for k in range(slices):
        ds = pydicom.dcmread(files[k % len(files)])
        ds.SeriesInstanceUID, ds.InstanceNumber = series, k + 1
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["speed", str(k)])
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], 3.0 * k]
        ds.SliceLocation = 3.0 * k
        ds.save_as(folder / f"{k + 1:04d}.dcm")


def folder(slices: int, *options: str) -> dict[str, Any]:
    """`medidiff reconstruct` of a folder in a process of its own: the clock, its memory, and what run.json says.

    `start` is what a single slice takes beside being read, restored and written: loading the program and the model.
    """
    one, row = reconstructed(1, *options), reconstructed(slices, *options)
    return row | {"start": one["seconds"] - sum(one[stage] for stage in STAGES)}


def reconstructed(slices: int, *options: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        scan, out = Path(place) / "scan", Path(place) / "out"
        scan.mkdir()
        write_folder(scan, slices)
        began = time.perf_counter()
        usage = run_child([*CLI, "reconstruct", str(scan), "-o", str(out), *options], silent=True)
        wall = time.perf_counter() - began
        record = json.loads((out / "run.json").read_text())
    stages = record["series"][0]["seconds"]
    return {
        "slices": slices,
        "seconds": wall,
        "memory_mb": usage.ru_maxrss / 1024,
        "processor_s": usage.ru_utime + usage.ru_stime,
        "engine": record["parameters"]["engine"],
        **{stage: stages.get(stage, 0.0) for stage in STAGES},
    }


STAGES = ("read", "network", "write")
CLI = [sys.executable, "-c", "from medidiff.cli import main; main()"]


def run_child(command: list[str], *, silent: bool = False) -> resource.struct_rusage:
    actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)] if silent else []
    process = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(f"{' '.join(command[1:])}: failed")
    return usage


def apart(what: str, name: str = "") -> dict[str, Any]:
    """A measurement in a fresh process."""
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"
        run_child([sys.executable, __file__, "--measure", what, name, str(result)])
        return json.loads(result.read_text())


def machine() -> dict[str, Any]:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "at_once": slices_at_once(load("ct"), "torch"),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "model_sha256": load("ct").sha256,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) + ("---:",) * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def peers_table(rows: list[dict[str, Any]]) -> str:
    first = rows[0]["seconds"]
    return table(
        ("512 x 512 slice", "evaluations", "GFLOP", "seconds", "times ours", "peak memory", "of the peak"),
        [
            (r["name"], str(r["nfe"]), f"{r['gflop']:,.0f}", f"{r['seconds']:.2f}", f"{r['seconds'] / first:.1f}",
             f"{r['memory_mb']:,.0f} MB", f"{r['gflop'] * 1e9 / r['seconds'] / r['peak']:.0%}")
            for r in rows
        ],
    )  # fmt: skip


def folder_table(rows: list[dict[str, Any]]) -> str:
    def cells(r: dict[str, Any]) -> tuple[str, ...]:
        hidden = max(1 - (r["start"] + r["network"]) / r["seconds"], 0)
        stages = (f"{r[stage]:.1f}" for stage in ("start", *STAGES))
        seconds, memory = (f"{r['seconds']:.1f}", f"{r['seconds'] / r['slices']:.3f}"), f"{r['memory_mb']:,.0f} MB"
        return (str(r["slices"]), *seconds, *stages, f"{hidden:.0%}", memory)

    head = ("slices", "seconds", "a slice", "start", "reading", "network", "writing", "IO not hidden", "peak memory")
    return table(head, [cells(r) for r in rows])


def floor_text(found: dict[str, Any]) -> str:
    peak, copy, layers = found["peak"], found["copy"], found["layers"]
    total = sum(row["gflop"] for row in layers)
    rows = [
        (f"{row['side']} x {row['side']}", str(row["layers"]), f"{row['gflop']:.1f}", f"{row['mb']:.0f}",
         f"{row['gflop'] * 1e12 / peak:.0f}", f"{row['mb'] * 1e9 / copy:.0f}")
        for row in layers
    ]  # fmt: skip
    sums = (sum(float(row[k]) for row in rows) for k in range(1, 6))
    rows.append(("all", *(f"{value:.{digits}f}" for value, digits in zip(sums, (0, 1, 0, 0, 0), strict=True))))
    kinds = list(found["plain"]["shares"])
    time_rows = [
        (title, f"{found[key]['seconds']:.3f}", f"{total * 1e9 / found[key]['seconds'] / peak:.0%}",
         *(f"{found[key]['shares'][kind]:.0%}" for kind in kinds))
        for title, key in (("plain", "plain"), ("fused", "fused"))
    ]  # fmt: skip
    others = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in found["around"].items())
    return "\n\n".join(
        [
            f"Matrix product: {peak / 1e9:.0f} GFLOP/s. Memory copy: {copy / 1e9:.0f} GB/s read and written. "
            f"The floor of the network is {total * 1e9 / peak:.3f} s a slice.",
            table(("convolutions giving", "number", "GFLOP", "MB moved", "ms at the peak", "ms at copy rate"), rows),
            table(("network", "seconds", "of the peak", *kinds), time_rows),
            f"A whole slice, from HU to HU, takes {found['slice']:.3f} s; around the network: {others}.",
        ]
    )


def texts(figures: dict[str, Any]) -> dict[str, str]:
    """Markdown of the parts that have figures."""
    found: dict[str, str] = {}
    if "peers" in figures:
        found["peers"] = peers_table(figures["peers"])
    if "folder" in figures:
        found["folder"] = folder_table(figures["folder"])
    if "linear" in figures:
        found["linear"] = folder_table(figures["linear"])
    if "half" in figures:
        found["half"] = peers_table(figures["half"]["peers"])
        found["half folder"] = folder_table(figures["half"]["folder"])
    if "floor" in figures:
        found["floor"] = floor_text(figures["floor"])
    return found


def told(page: Path, parts: dict[str, str], facts: dict[str, Any]) -> None:
    """Replace what stands between the markers of each part."""
    text = page.read_text(encoding="utf-8")
    machine_line = (
        f"{facts['processor']}, {facts['threads']} threads, {facts['capability']}, torch {facts['torch']}, "
        "single precision, channels last."
    )
    for name, body in {**parts, "machine": machine_line}.items():
        begin = BEGIN.format(name)
        if begin in text:
            before, rest = text.split(begin, 1)
            text = f"{before}{begin}\n{body}\n{END}{rest.split(END, 1)[1]}"
    page.write_text(text, encoding="utf-8")


def measure(part: str, slices: int) -> Any:
    if part == "floor":
        return apart("floor")
    if part == "peers":
        return [shown(apart("ours", name)) for name in OURS] + [shown(apart("peer", name)) for name in PEERS]
    if part == "half":
        rows = [shown(apart("ours", name + HALF)) for name in IN_HALF]
        rows += [shown(apart("peer", name + HALF)) for name in PEERS]
        return {"peers": rows, "folder": [shown(folder(slices, "--precision", "bf16"))]}
    return [shown(folder(n)) for n in ((slices,) if part == "folder" else LINEAR)]


def shown(row: dict[str, Any]) -> dict[str, Any]:
    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:3])
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        what, name, result = asked.measure
        work = {"floor": lambda _: floor(), "ours": ours, "peer": peer}[what]
        Path(result).write_text(json.dumps(work(name)))
        return
    figures = json.loads(FIGURES.read_text()) if asked.write and FIGURES.exists() else {}
    figures["machine"] = machine()
    for part in asked.only:
        figures[part] = measure(part, asked.slices)
        if asked.write:
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    for name, body in texts(figures).items():
        print(f"\n{name}\n{body}")
    if asked.write:
        for page in (PAGE, README):
            told(page, texts(figures), figures["machine"])


if __name__ == "__main__":
    main()
