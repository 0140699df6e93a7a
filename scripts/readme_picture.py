"""The picture at the top of the README: a real patient of the test split at a simulated quarter of the dose.

    python scripts/readme_picture.py SCANS/ct/crlm1004_ge_std_5mm --credit "..." -o docs/images/reconstruction.png

The low dose is simulated by `medidiff simulate`'s functions, the reconstruction is made by `medidiff reconstruct`'s.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from medidiff.figures import side_by_side
from medidiff.inference.options import Options
from medidiff.inference.restore import Restorer
from medidiff.io.dicom import open_series, scan
from medidiff.model import load
from medidiff.patches import slab_indices
from medidiff.simulate import Acquisition, LowDoseSource, low_dose

LOW, RECONSTRUCTED, FULL = "quarter dose (simulated)", "reconstructed", "full dose"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--credit", required=True, help="patient's collection and licence, for the title")
    parser.add_argument("--slice", type=int, help="default: the middle")
    parser.add_argument("--model", default="ct")
    parser.add_argument("--zoom", type=float, nargs=4, default=(0.3, 0.6, 0.15, 0.45), help="rows, columns: fractions")
    options = parser.parse_args()
    series = scan(options.scan).usable[0]
    source = open_series(series)
    acquisition = Acquisition.of(series)
    low = LowDoseSource(source, acquisition, low_dose(source, acquisition, 0.25))
    model = load(options.model)
    n = source.geometry.n_slices
    index = n // 2 if options.slice is None else options.slice
    slab = np.stack([low.read(k) for k in slab_indices(index, n, model.slab)])
    restored = Restorer(model, Options(mode="quantitative").parameters()).slice(index, slab, low.padding(index))
    rows, columns = source.geometry.matrix
    a, b, c, d = options.zoom
    side_by_side(
        {LOW: slab[len(slab) // 2], RECONSTRUCTED: restored.image, FULL: source.read(index)},
        options.out,
        geometry=source.geometry,
        difference=(RECONSTRUCTED, FULL),
        title=f"Model '{model.card.name}', patient not seen in training. {options.credit}",
        zoom=(slice(int(a * rows), int(b * rows)), slice(int(c * columns), int(d * columns))),
    )
    print(options.out)


if __name__ == "__main__":
    main()
