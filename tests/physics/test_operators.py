"""Laws that every linear operator keeps, and exact line integrals of ellipses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.physics.ct import FanGeometry, fan_lines, line_integrals, project
from medidiff.physics.ellipses import Ellipse, image, integrals
from medidiff.physics.operators import Counted, LinearOperator
from medidiff.physics.pet import ParallelBeam, ParallelGeometry
from medidiff.physics.projectors import Beam, Projector, evenly

FEW = ParallelGeometry(n_angles=30, n_bins=41, bin_mm=8.0)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _fan(n_views: int, arc: float, detector: str = "curved", n_bins: int = 41, bin_mm: float = 8.0) -> Beam:
    return Beam("fan", evenly(n_views, arc), n_bins, bin_mm, detector, 595.0, 1085.6)


OPERATORS: dict[str, LinearOperator] = {
    "fan, curved": Projector((24, 24), 9.0, _fan(32, 360)),
    "fan, flat": Projector((24, 24), 9.0, _fan(30, 360, "flat")),
    "fan, oblong": Projector((20, 31), 7.0, _fan(32, 360)),
    "fan, truncated": Projector((40, 40), 12.0, _fan(32, 360)),
    "fan, limited": Projector((24, 24), 9.0, _fan(20, 120)),
    "parallel": Projector((24, 24), 9.0, Beam("parallel", evenly(30, 180), 41, 6.0)),
    "parallel, oblong": Projector((20, 31), 7.0, Beam("parallel", evenly(30, 180), 41, 6.0)),
    "counted": Counted(Projector((24, 24), 9.0, _fan(32, 360))),
    "PET": ParallelBeam((24, 24), 9.0, FEW),
    "PET, oblong": ParallelBeam((20, 31), 7.0, FEW),
    "PET, truncated": ParallelBeam((40, 40), 12.0, FEW),
}


@pytest.fixture(params=OPERATORS.values(), ids=OPERATORS.keys())
def operator(request: pytest.FixtureRequest) -> LinearOperator:
    return request.param


def _random(shape: tuple[int, ...], seed: int, batch: int = 2) -> torch.Tensor:
    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_adjoint(operator: LinearOperator) -> None:
    """<A x, y> = <x, A^T y> to 1e-12 in double precision."""
    x, y = _random(operator.in_shape, 0), _random(operator.out_shape, 1)
    left, right = (operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum()
    assert abs(left - right) <= 1e-12 * operator.apply(x).norm() * y.norm()


def test_adjoint_in_single_precision(operator: LinearOperator) -> None:
    """The same to 1e-6 in single precision."""
    x, y = _random(operator.in_shape, 0).float(), _random(operator.out_shape, 1).float()
    ax = operator.apply(x)
    assert abs((ax * y).sum() - (x * operator.adjoint(y)).sum()) <= 1e-6 * ax.norm() * y.norm()


def test_linearity(operator: LinearOperator) -> None:
    """A (2 x - 3 z) = 2 A x - 3 A z, and the same for the adjoint."""
    for shape, apply in ((operator.in_shape, operator.apply), (operator.out_shape, operator.adjoint)):
        x, z = _random(shape, 2), _random(shape, 3)
        torch.testing.assert_close(apply(2 * x - 3 * z), 2 * apply(x) - 3 * apply(z))


def test_shape_dtype_and_device(operator: LinearOperator) -> None:
    """Results have the other side's shape, the input's type and the input's device; a wrong shape is refused."""
    x = _random(operator.in_shape, 4, batch=3).float()
    y = operator.apply(x)
    assert y.shape == (3, *operator.out_shape)
    assert operator.adjoint(y).shape == x.shape
    assert y.dtype == operator.adjoint(y).dtype == torch.float32
    assert y.device == x.device
    with pytest.raises(ValueError, match="expects"):
        operator.apply(x[:, :-1])


def test_batch_invariance(operator: LinearOperator) -> None:
    """An image's projection does not depend on what else is in the batch, bit for bit."""
    x = _random(operator.in_shape, 5, batch=4)
    assert torch.equal(operator.apply(x)[2:3], operator.apply(x[2:3]))
    assert torch.equal(operator.adjoint(operator.apply(x))[1:2], operator.adjoint(operator.apply(x[1:2])))


def test_batch_invariance_of_floats_without_turns() -> None:
    """So it is in single precision, where one column is summed by another kernel if its stride is not 1."""
    projector = Projector((256, 256), 1.0, Beam("parallel", evenly(30, 170), 300, 1.2))
    x = _random(projector.in_shape, 5, batch=4).float()
    y = projector.apply(x)
    assert projector.turns == 1
    assert torch.equal(y[2:3], projector.apply(x[2:3]))
    assert torch.equal(projector.adjoint(y)[1:2], projector.adjoint(y[1:2]))
    assert torch.equal(projector.adjoint(y)[:1], projector.adjoint(projector.apply(x[:1])))


def test_gradient_is_the_adjoint(operator: LinearOperator) -> None:
    """d/dx <A x, y> = A^T y, so that guidance can differentiate through a measurement."""
    x, y = _random(operator.in_shape, 6).requires_grad_(), _random(operator.out_shape, 7)
    (operator.apply(x) * y).sum().backward()
    torch.testing.assert_close(x.grad, operator.adjoint(y))


@pytest.mark.parametrize(
    "ellipses",
    [
        [Ellipse(100, 100, 0.02)],
        [Ellipse(140, 90, 0.02, x0=20, y0=-15, phi=0.4), Ellipse(20, 30, 0.01, x0=-40, y0=30, phi=-1)],
    ],
    ids=["disc", "ellipses"],
)
def test_projection_of_ellipses(ellipses: list[Ellipse]) -> None:
    """Projections of an image of discs and ellipses are their analytic line integrals, to 0.2 % rms of the maximum."""
    geometry = FanGeometry(n_views=40, n_bins=184, bin_mm=4 * 1.2858)
    theta, s = fan_lines(geometry)
    truth = integrals(ellipses, theta, s)
    seen = project(image(ellipses, (256, 256), 1.4), 1.4, geometry).ravel()
    assert np.sqrt(np.mean((seen - truth) ** 2)) < 2e-3 * truth.max()
    deep = truth > 0.5 * truth.max()
    assert abs(np.mean(seen[deep] / truth[deep]) - 1) < 2e-4


BEAMS = {
    "parallel": Beam("parallel", evenly(40, 180), 300, 1.3),
    "curved": _fan(40, 360, "curved", 184, 4 * 1.2858),
    "flat": _fan(40, 360, "flat", 200, 4 * 1.2858),
    "limited": _fan(40, 130, "curved", 184, 4 * 1.2858),
}
BODY = [Ellipse(140, 90, 0.02, x0=20, y0=-15, phi=0.4), Ellipse(20, 30, 0.01, x0=-40, y0=30, phi=-1)]


@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS.keys())
def test_line_integrals_are_analytic(beam: Beam) -> None:
    """The matrix has the analytic line integrals of ellipses, to 0.2 % rms of the maximum and 0.02 % on average."""
    theta, s = beam.lines()
    truth = integrals(BODY, theta, s)
    x = torch.from_numpy(image(BODY, (256, 256), 1.4).astype(np.float32))[None]
    seen = Projector((256, 256), 1.4, beam).apply(x).numpy().ravel()
    assert np.sqrt(np.mean((seen - truth) ** 2)) < 2e-3 * truth.max()
    deep = truth > 0.5 * truth.max()
    assert abs(np.mean(seen[deep] / truth[deep]) - 1) < 2e-4


@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS.keys())
def test_quarter_turns_share_a_matrix(beam: Beam) -> None:
    """Whether one quarter of the rays or all are in the matrix, the rays are those of the walk through the image."""
    x = torch.rand(1, 50, 50, generator=torch.Generator().manual_seed(0))
    operator = Projector((50, 50), 7.0, beam)
    assert operator.turns == {"parallel": 2, "curved": 4, "flat": 4, "limited": 1}[_name_of(beam)]
    walked = line_integrals(x[0].numpy(), 7.0, *beam.lines()).reshape(beam.shape)
    np.testing.assert_allclose(operator.apply(x)[0].numpy(), walked, atol=1e-5 * walked.max())


def _name_of(beam: Beam) -> str:
    return next(name for name, one in BEAMS.items() if one is beam)


def test_the_source_stands_above_and_bins_follow_the_columns() -> None:
    """At angle 0 a bright column to the right is seen by bins on the right, larger as it is nearer to the source."""
    x = torch.zeros(2, 31, 31)
    x[0, 4, 24] = x[1, 26, 24] = 1  # near to the source, and far
    seen = Projector((31, 31), 5.0, _fan(4, 360, "flat", 301, 1.0)).apply(x)[:, 0]
    near, far = (float((one * torch.arange(301)).sum() / one.sum()) - 150 for one in seen)
    assert near > far > 0
    offset, height = 9 * 5.0, 11 * 5.0
    assert near == pytest.approx(offset * 1085.6 / (595 - height), rel=0.01)
    assert far == pytest.approx(offset * 1085.6 / (595 + height), rel=0.01)


def test_astra_agrees() -> None:
    """Within 0.5 % of the ASTRA Toolbox, parallel and in a flat fan, where it is installed."""
    pytest.importorskip("astra", reason="ASTRA TOOLBOX NOT INSTALLED: pip install 'medidiff[astra]'")
    from medidiff.physics.astra_projector import AstraProjector

    x = torch.from_numpy(image(BODY, (180, 200), 1.7).astype(np.float32))[None]
    for name in ("parallel", "flat"):
        ours, theirs = Projector((180, 200), 1.7, BEAMS[name]), AstraProjector((180, 200), 1.7, BEAMS[name])
        a, b = ours.apply(x), theirs.apply(x)
        assert (a - b).norm() < 5e-3 * b.norm()
        y = torch.rand(a.shape, generator=torch.Generator().manual_seed(0))
        left, right = (theirs.apply(x) * y).sum(), (x * theirs.adjoint(y)).sum()
        assert abs(left - right) <= 1e-6 * b.norm() * y.norm()


def test_astra_refuses_what_it_does_not_know() -> None:
    from medidiff.errors import UsageError
    from medidiff.physics.astra_projector import AstraProjector

    with pytest.raises(UsageError, match=r"flat detectors only|not installed"):
        AstraProjector((20, 20), 9.0, BEAMS["curved"])


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_has_the_same_line_integrals(device: str) -> None:
    """One code for all: single precision anywhere is within 1e-5 of double precision on the CPU."""
    x = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for operator, there in (
        (Projector((40, 40), 9.0, BEAMS["flat"]), Projector((40, 40), 9.0, BEAMS["flat"], device)),
        (ParallelBeam((40, 40), 6.0, FEW), ParallelBeam((40, 40), 6.0, FEW, device)),
    ):
        truth = operator.apply(x)
        torch.testing.assert_close(there.apply(x.float()).double(), truth, rtol=1e-5, atol=1e-5 * float(truth.max()))
        back = operator.adjoint(truth)
        torch.testing.assert_close(
            there.adjoint(truth.float()).double(), back, rtol=1e-5, atol=1e-5 * float(back.max())
        )


def test_a_matrix_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from medidiff.errors import InputError
    from medidiff.physics import projectors

    monkeypatch.setattr(projectors, "MOST_WEIGHTS", 1000)
    with pytest.raises(InputError, match="fewer views"):
        Projector((24, 24), 9.0, _fan(32, 360))


def test_calls_are_counted() -> None:
    operator = Counted(OPERATORS["fan, curved"])
    y = operator.apply(torch.ones(1, 24, 24))
    operator.adjoint(operator.apply(operator.adjoint(y)))
    assert (operator.applied, operator.adjoined) == (2, 2)
