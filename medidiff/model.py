"""A model: denoiser + intensity scaling + slab plan + card, in one safetensors file.

The file's metadata hold everything needed to rebuild the network and to judge it: architecture, scaling, card.
Weights are stored as float16 and used as float32. Nothing is unpickled. The hash of the file names the model in
every result it makes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from medidiff.config import Settings
from medidiff.diffusion.denoiser import FEATURES, Condition, Denoiser
from medidiff.diffusion.regression import Regression
from medidiff.errors import ModelError
from medidiff.io.files import file_hash
from medidiff.networks.plain import PLAIN
from medidiff.networks.unet import UNet
from medidiff.noise.activity import FACTS, Activity, activity_of, facts_of, guide_of
from medidiff.noise.level import noise_estimate, noise_map
from medidiff.patches import crop, pad_block, pad_to_multiple
from medidiff.scaling import LinearScaling
from medidiff.seen import Seen
from medidiff.units import Unit

FORMAT = "medidiff-model-1"
SUFFIX = ".safetensors"


class Architecture(Settings):
    """What the network looks like; enough to rebuild it.

    `unet` is a diffusion model of a slab; `redcnn` and `cnn10` are regressions of a slice, fixed by their papers.
    fold     how the image enters: pixels of fold_factor x fold_factor blocks, or Haar coefficients of 2 x 2 blocks
    noise    the noise level as one number, or as a map of the slice (with 3 dimensions of the local activity) as well
    spread   whether the network gives a standard deviation with its mean
    anchor   pixels over which the local mean of the scan is kept (see Denoiser)
    dimensions   3: a block of slices at once, in units of its own local noise (medidiff.noise.activity)
    guide    whether the network is shown a second image of the anatomy, which may be absent; with 3 dimensions
    """

    network: Literal["unet", "redcnn", "cnn10"] = "unet"
    slab: int = Field(default=3, ge=1)
    widths: tuple[int, ...] = (32, 64, 128, 256)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    embedding: int = 64
    dimensions: Literal[2, 3] = 2
    guide: bool = False
    fold: Literal["unshuffle", "haar"] = "unshuffle"
    fold_factor: Literal[2, 4] = 2
    noise: Literal["number", "map"] = "number"
    spread: bool = False
    anchor: float = Field(default=0.0, ge=0)
    data_mean: float = -0.4
    data_std: float = 0.45

    @model_validator(mode="before")
    @classmethod
    def _one_slice(cls, values: Any) -> Any:
        """The plain networks see one slice, whether a recipe says so or not."""
        is_plain = isinstance(values, dict) and values.get("network") in PLAIN
        return {**values, "slab": 1} if is_plain else values

    @property
    def stride(self) -> int:
        """What the sides of an image must be a multiple of."""
        return 1 if self.network in PLAIN else int(self.fold_factor * 2 ** (len(self.widths) - 1))

    @model_validator(mode="after")
    def _haar_is_twofold(self) -> Architecture:
        if self.fold == "haar" and self.fold_factor != 2:
            raise ValueError(f"fold: haar works on 2 x 2 blocks, fold_factor {self.fold_factor} found: use unshuffle")
        return self

    @model_validator(mode="after")
    def _blocks_are_their_own_neighbours(self) -> Architecture:
        if self.dimensions == 3 and self.slab != 1:
            raise ValueError("dimensions: 3 takes a block of slices at once: set slab: 1")
        if self.guide and self.dimensions != 3:
            raise ValueError("guide: true needs dimensions: 3")
        return self

    @model_validator(mode="after")
    def _has_a_middle(self) -> Architecture:
        if self.slab % 2 == 0:
            raise ValueError(f"slab {self.slab} has no middle slice: use {self.slab - 1} or {self.slab + 1}")
        return self

    @model_validator(mode="after")
    def _levels_agree(self) -> Architecture:
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths and blocks have one number for each level, found {len(self.widths)} and {len(self.blocks)}"
            )
        return self

    @model_validator(mode="after")
    def _plain_is_fixed(self) -> Architecture:
        if self.network in PLAIN and (self.spread or self.anchor or self.noise == "map"):
            raise ValueError(f"{self.network} has no spread, anchor or noise map: leave them out, or use unet")
        return self


class Card(Settings):
    """What a model is, what it was made from, and where it stands; shown by `medidiff models NAME`.

    input   what its condition is: the image of a scanner, or the backprojection of projections
    """

    name: str
    modality: Literal["CT", "PT"] = "CT"
    input: Literal["image", "projections"] = "image"
    summary: str = ""
    data: tuple[str, ...] = ()
    simulated: str = ""
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: tuple[dict[str, Any], ...] = ()
    uncertainty: dict[str, Any] = Field(default_factory=dict)
    seen: Seen | None = None
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Model:
    """A denoiser ready for use.

    sha256 is the hash of the weight file, or "unsaved".
    """

    denoiser: Denoiser | Regression
    scaling: LinearScaling
    architecture: Architecture
    card: Card
    sha256: str = "unsaved"

    @property
    def slab(self) -> int:
        """Number of neighbouring slices that `condition` wants."""
        return self.architecture.slab

    @property
    def stride(self) -> int:
        return self.architecture.stride

    @property
    def can_sample(self) -> bool:
        """False for a regression: it has a mean and no posterior."""
        return isinstance(self.denoiser, Denoiser)

    @property
    def has_spread(self) -> bool:
        """Whether `denoiser.mean_and_spread` gives a standard deviation with the mean."""
        return self.architecture.spread and self.can_sample

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def condition(self, slab: NDArray[np.float32]) -> Condition:
        """Condition of one slice: slab (K, rows, columns) in the scaling's unit, the slice in the middle.

        The noise level is that of the middle slice, so the answer for a slice depends on its slab alone.
        Spatial sizes of the result are padded to the network's stride.
        """
        estimate = noise_estimate(slab[len(slab) // 2])
        image = torch.from_numpy(np.ascontiguousarray(slab, dtype=np.float32)).to(self.device)
        padded = pad_to_multiple(self.scaling.forward(image)[None], self.stride)
        return Condition(
            slab=padded,
            r=torch.tensor([estimate.level / self.scaling.factor], dtype=torch.float32, device=self.device),
            colour=torch.tensor([estimate.colour], dtype=torch.float32, device=self.device),
            null=torch.zeros(1, dtype=torch.bool, device=self.device),
            noise_map=self._noise_map(slab[len(slab) // 2], estimate.level),
        )

    def block(
        self, volume: NDArray[np.float32], spacing_mm: tuple[float, float, float], guide: NDArray[np.float32] | None
    ) -> tuple[Condition, NDArray[np.float32]]:
        """Condition of a block (slices, rows, columns) in SUV and its local noise level in SUV, which is the unit that
        the network works in; `guide` is a CT on the same grid in HU. All three sides are padded to the stride."""
        activity = activity_of(volume, spacing_mm)
        return self.told(volume, activity, spacing_mm, guide), activity.level

    def told(
        self,
        volume: NDArray[np.float32],
        activity: Activity,
        spacing_mm: tuple[float, float, float],
        guide: NDArray[np.float32] | None,
    ) -> Condition:
        """The condition of `block`, where the noise of the block is known."""
        has_guide = guide is not None and self.architecture.guide
        return Condition(
            slab=self._padded_block(volume / activity.level),
            r=torch.ones(1, device=self.device),
            colour=torch.tensor([activity.colour], dtype=torch.float32, device=self.device),
            null=torch.zeros(1, dtype=torch.bool, device=self.device),
            noise_map=self._padded_block(activity.map) if self.architecture.noise == "map" else None,
            guide=self._padded_block(guide_of(guide)) if guide is not None and has_guide else None,
            facts=torch.from_numpy(facts_of(activity, spacing_mm, has_guide=has_guide))[None].to(self.device),
        )

    @torch.inference_mode()
    def block_mean(
        self, volume: NDArray[np.float32], spacing_mm: tuple[float, float, float], guide: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """E[x | y] of a block (slices, rows, columns) in SUV."""
        cond, level = self.block(volume, spacing_mm, guide)
        z = self.denoiser.mean(cond)[0, 0].cpu().numpy()
        return np.asarray(z[tuple(slice(n) for n in level.shape)] * level, np.float32)

    def _padded_block(self, values: NDArray[np.float32]) -> Tensor:
        block = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.device)
        return pad_block(block[None, None], self.stride)

    def _noise_map(self, image: NDArray[np.float32], level: float) -> Tensor | None:
        if self.architecture.noise == "number":
            return None
        return pad_to_multiple(torch.from_numpy(noise_map(image, level)).to(self.device)[None, None], self.stride)

    @torch.inference_mode()
    def mean(self, slab: NDArray[np.float32]) -> NDArray[np.float32]:
        """E[x | y] of one slice (rows, columns), from its slab (K, rows, columns), both in the scaling's unit."""
        return self.image(self.denoiser.mean(self.condition(slab)), (slab.shape[1], slab.shape[2]))

    def image(self, x0_hat: Tensor, matrix: tuple[int, int]) -> NDArray[np.float32]:
        """(rows, columns) in the scaling's unit, from a network answer (1, 1, padded rows, padded columns)."""
        return crop(self.scaling.inverse(x0_hat)[0, 0], matrix).float().cpu().numpy()

    def to(self, device: str | torch.device) -> Model:
        """Move the weights, in place, and return self."""
        self.denoiser.to(device)
        return self


def build(architecture: Architecture) -> Denoiser | Regression:
    """An untrained denoiser of the given architecture."""
    if architecture.network != "unet":
        plain = PLAIN[architecture.network]()
        return Regression(plain, plain.smallest).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = UNet(
        architecture.slab + 1 + (architecture.noise == "map") + architecture.guide,
        1 + architecture.spread,
        features=FEATURES + (FACTS if architecture.dimensions == 3 else 0),
        widths=architecture.widths,
        blocks=architecture.blocks,
        embedding=architecture.embedding,
        dimensions=architecture.dimensions,
        fold_factor=architecture.fold_factor,
        wavelet=architecture.fold == "haar",
    )
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[architecture.dimensions]
    network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it
    return Denoiser(
        network,
        data_mean=architecture.data_mean,
        data_std=architecture.data_std,
        takes_map=architecture.noise == "map",
        takes_guide=architecture.guide,
        gives_spread=architecture.spread,
        anchor=architecture.anchor,
    )


def save(
    path: Path, denoiser: Denoiser | Regression, architecture: Architecture, scaling: LinearScaling, card: Card
) -> str:
    """Write float16 weights with card to `path` (atomically); returns the file's SHA-256, which is reproducible."""
    weights = {k: v.detach().to(torch.float16).contiguous().cpu() for k, v in denoiser.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "architecture": architecture.model_dump_json(),
        "scaling": json.dumps(scaling.to_dict()),
        "card": card.model_dump_json(),
    }
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(_canonical(serialise(weights, metadata=metadata)))
    os.replace(temporary, path)
    return file_hash(path)


def rewrite_card(path: Path, **changes: Any) -> str:
    """Replace parts of the card of a model file, its weights kept to the last bit; returns the new SHA-256."""
    model = load(path)
    card = model.card.model_copy(update=changes)
    return save(path, model.denoiser, model.architecture, model.scaling, card)


def _canonical(file: bytes) -> bytes:
    """A safetensors file with its header in sorted order: the library writes the metadata in a random one."""
    size = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[8 + size :]


def load(name: str | Path) -> Model:
    """Load an embedded model by name, or any model by its file.

    Raises ModelError for unknown names and for corrupt or foreign files.
    """
    path = _find(name)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path.name}: not a readable safetensors file ({error}); copy or download it again") from None
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise ModelError(f"{path.name}: not a medidiff model (format '{FORMAT}' expected, '{found}' found)")
    try:
        architecture = Architecture.model_validate_json(metadata["architecture"])
        card = Card.model_validate_json(metadata["card"])
        scaling = LinearScaling(**json.loads(metadata["scaling"]))
        denoiser = build(architecture)
        denoiser.load_state_dict({key: value.float() for key, value in weights.items()})
    except (KeyError, TypeError, ValueError, ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path.name}: the weights do not fit their own description ({reason})") from None
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise ModelError(f"{path.name}: the weights hold NaN or infinity; the file is damaged, copy it again")
    return Model(denoiser.eval().requires_grad_(False), scaling, architecture, card, file_hash(path))


def embedded() -> dict[str, Path]:
    """Name -> file of the models that come with the package."""
    folder = Path(str(resources.files("medidiff.weights")))
    return {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}


DEFAULT = "ct"
DEFAULT_FOR: dict[Unit, str] = {"HU": DEFAULT, "SUV": "pet"}
FOR_PROJECTIONS = "ct-projections"


def _find(name: str | Path) -> Path:
    known = embedded()
    if str(name) in known:
        return known[str(name)]
    path = Path(name)
    if path.is_file():
        return path
    raise ModelError(f"model '{name}': neither a file nor an embedded model ({', '.join(known) or 'none'})")
