"""A small picture of the middle slice, as the address that a table's image column takes."""

from __future__ import annotations

import base64
import io
from functools import lru_cache

import numpy as np
from PIL import Image as Picture

from dashboard import state
from dashboard.library import Image
from medidiff.errors import MedidiffError

PIXELS = 96
WINDOW = {"HU": (-160.0, 240.0), "SUV": (7.0, 0.0)}  # PET inverted


def thumbnail(image: Image) -> str | None:
    """None where the slice cannot be read."""
    return None if image.reason else _made(image.key)


@lru_cache(maxsize=512)
def _made(key: str) -> str | None:
    image = state.library().images[key]
    try:
        source = image.open()
        plane = source.read(source.geometry.n_slices // 2)
    except MedidiffError:
        return None
    low, high = WINDOW[image.unit]
    grey = np.clip((plane - low) / (high - low), 0, 1)
    height, width = (n * mm for n, mm in zip(plane.shape, source.geometry.pixel_spacing_mm, strict=True))
    scale = PIXELS / max(height, width)
    picture = Picture.fromarray((255 * grey).astype(np.uint8)).resize((round(width * scale), round(height * scale)))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
