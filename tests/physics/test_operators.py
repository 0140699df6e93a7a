"""Laws that every linear operator keeps, and exact line integrals of ellipses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.physics.ct import FanGeometry, fan_lines, project
from medidiff.physics.ellipses import Ellipse, image, integrals
from medidiff.physics.operators import FanBeam, LinearOperator
from medidiff.physics.pet import ParallelBeam, ParallelGeometry

SMALL = FanGeometry(n_views=30, n_bins=41, bin_mm=8.0)
FEW = ParallelGeometry(n_angles=30, n_bins=41, bin_mm=8.0)
OPERATORS = {
    "fan": FanBeam((24, 24), 9.0, SMALL),
    "fan, oblong": FanBeam((20, 31), 7.0, SMALL),
    "fan, truncated": FanBeam((40, 40), 12.0, SMALL),
    "parallel": ParallelBeam((24, 24), 9.0, FEW),
    "parallel, oblong": ParallelBeam((20, 31), 7.0, FEW),
    "parallel, truncated": ParallelBeam((40, 40), 12.0, FEW),
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
