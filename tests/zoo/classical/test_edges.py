"""Edge operators against libraries and formulas, and the step that closes edges into regions."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.build import build
from medseg.zoo.classical.edges.closing import enclosed, zero_crossings
from medseg.zoo.classical.edges.fourier import highpass
from medseg.zoo.classical.edges.gradient import gradient_mm
from medseg.zoo.classical.edges.kirsch import compass
from medseg.zoo.classical.edges.laplacian import laplacian_mm
from medseg.zoo.classical.edges.log import mexican_hat
from medseg.zoo.classical.edges.prewitt import Prewitt
from medseg.zoo.classical.edges.roberts import Roberts
from medseg.zoo.classical.edges.sobel import Sobel
from medseg.zoo.rows.classical_edges import ROWS

OPTIONS = Sobel.Arguments()
BOTH = [(card.name, dims) for card in ROWS for dims in card.dims]


def run(
    name: str,
    image: np.ndarray,
    spacing: tuple[float, ...] = (),
    prompt: Prompt | None = None,
    **parameters: object,
) -> np.ndarray:
    """Labels of a grey image of two or three axes."""
    method = build(name, dims=image.ndim, in_channels=1, classes=2)
    return method.segment(image[None], spacing or (1.0,) * image.ndim, prompt, **parameters)


def ball(shape: tuple[int, ...], radius_mm: float, spacing: tuple[float, ...]) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return sum(g**2 for g in np.meshgrid(*axes, indexing="ij")) < radius_mm**2


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, shape)


@pytest.mark.parametrize(("name", "dims"), BOTH)
def test_every_edge_method_finds_a_ball(name: str, dims: int) -> None:
    shape = {2: (64, 60), 3: (32, 30, 31)}[dims]
    truth = ball(shape, {2: 18, 3: 10}[dims], (1.0,) * dims)
    found = run(name, 100.0 * truth + 0.5 * noise(*shape))
    # A high-pass answers on both sides of a step, so its borders are the least exact.
    assert dice(found == 1, truth) > (0.85 if name == "edge-fourier-highpass" else 0.9)


@pytest.mark.parametrize("name", [card.name for card in ROWS if 3 in card.dims])
def test_edges_alone_lie_near_the_border(name: str) -> None:
    from scipy.ndimage import distance_transform_edt

    truth = ball((64, 60), 18, (1.0, 1.0))
    edges = run(name, 100.0 * truth, output="edges") == 1
    away = np.where(truth, distance_transform_edt(truth), distance_transform_edt(~truth))
    assert edges.any()
    assert away[edges].max() <= (8 if name == "edge-fourier-highpass" else 4)


@pytest.mark.parametrize("name", ["edge-gradient", "edge-sobel", "edge-canny", "edge-log", "edge-parallel"])
def test_a_ball_in_thick_slices_is_found_in_millimetres(name: str) -> None:
    spacing = (0.7, 0.7, 2.0)
    truth = ball((50, 52, 18), 11, spacing)
    assert dice(run(name, 100.0 * truth, spacing) == 1, truth) > 0.85


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("operator", [Sobel, Prewitt])
def test_sobel_and_prewitt_equal_scikit_image_and_know_millimetres(operator: type, dims: int) -> None:
    from skimage import filters

    image = noise(*(9, 8, 7)[:dims])
    ours = operator().strength(image, (1.0,) * dims, OPTIONS)
    assert np.allclose(ours, getattr(filters, operator.__name__.lower())(image))
    assert np.allclose(operator().strength(image, (0.5,) * dims, OPTIONS), 2 * ours)


def test_roberts_equals_scikit_image_and_sees_all_three_planes() -> None:
    from skimage.filters import roberts

    image = noise(9, 8)
    ours = Roberts().strength(image, (1.0, 1.0), OPTIONS)
    assert np.allclose(ours[1:-1, 1:-1], roberts(image)[1:-1, 1:-1])
    for axis in range(3):
        step = np.zeros((6, 6, 6))
        np.moveaxis(step, axis, 0)[3:] = 1
        strength = np.moveaxis(Roberts().strength(step, (1.0,) * 3, OPTIONS), axis, 0)
        assert (strength[2] > 0).all()
        assert not strength[[0, 1, 3, 4, 5]].any()


def test_kirsch_is_the_best_of_the_eight_kernels() -> None:
    from scipy.ndimage import convolve

    ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    image, answers = noise(11, 12), []
    for turn in range(8):
        kernel = np.zeros((3, 3))
        for place, weight in zip(ring, np.roll([5, 5, 5, -3, -3, -3, -3, -3], turn), strict=True):
            kernel[place] = weight
        answers.append(convolve(image, kernel, mode="nearest"))
    assert np.allclose(15 * compass(image), np.max(answers, axis=0))


def test_kirsch_in_3d_answers_one_to_a_step_along_any_axis() -> None:
    for axis in range(3):
        step = np.zeros((7, 7, 7))
        np.moveaxis(step, axis, 0)[4:] = 1
        answer = np.moveaxis(compass(step), axis, 0)[3, 3, 3]
        assert answer == pytest.approx(1.0)
    assert np.allclose(compass(np.full((4, 4, 4), 7.0)), 0)


def test_the_high_pass_equals_the_fourier_transform_of_the_mirrored_image() -> None:
    image = noise(12, 10)
    mirrored = np.block([[image, image[:, ::-1]], [image[::-1], image[::-1, ::-1]]])
    frequency = np.meshgrid(np.fft.fftfreq(24, 1.0), np.fft.fftfreq(20, 2.0), indexing="ij")
    gain = 1 - np.exp(-(frequency[0] ** 2 + frequency[1] ** 2) / (2 * (0.3 / 4) ** 2))
    expected = np.fft.ifft2(np.fft.fft2(mirrored) * gain).real[:12, :10]
    assert np.allclose(highpass(image, (1.0, 2.0), 0.3), expected)


def test_the_gradient_of_a_ramp_is_its_slope_in_millimetres() -> None:
    x, y, z = np.meshgrid(np.arange(5) * 0.5, np.arange(6) * 2.0, np.arange(7) * 3.0, indexing="ij")
    assert np.allclose(gradient_mm(2 * x + 3 * y - 6 * z, (0.5, 2.0, 3.0)), 7.0)
    assert np.allclose(gradient_mm(np.arange(5.0)[:, None], (0.5, 1.0)), 2.0), (
        "an axis of one voxel adds nothing"
    )


def test_the_laplacian_equals_scikit_image_and_a_parabola_has_its_curvature() -> None:
    from skimage.filters import laplace

    image = noise(8, 9)
    inner = np.s_[1:-1, 1:-1]
    assert np.allclose(laplacian_mm(image, (1.0, 1.0))[inner], -laplace(image, 3)[inner])
    x = np.arange(9)[:, None] * 0.5
    assert np.allclose(laplacian_mm(x**2 + np.zeros((9, 4)), (0.5, 1.0))[1:-1], 2.0)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_a_step_crosses_zero_where_it_is_whatever_the_width_of_the_gaussian(sigma: float) -> None:
    step = np.zeros((48, 8))
    step[20:] = 1
    crossings = zero_crossings(mexican_hat(step, sigma, (1.0, 1.0)), 1e-4, (1.0, 1.0))
    assert set(np.flatnonzero(crossings.any(axis=1))) <= {19, 20}
    assert crossings.any()


def test_the_hat_equals_scipy_for_cubes_and_is_round_in_millimetres() -> None:
    from scipy.ndimage import gaussian_laplace

    image = noise(9, 10, 11)
    assert np.allclose(mexican_hat(image, 1.5, (1.0,) * 3), gaussian_laplace(image, 1.5))
    assert np.allclose(mexican_hat(image, 3.0, (2.0,) * 3), gaussian_laplace(image, 1.5) / 4)


def test_canny_edges_are_thin_and_where_scikit_image_has_them() -> None:
    from scipy.ndimage import binary_dilation
    from skimage.feature import canny

    truth = ball((64, 60), 18, (1.0, 1.0))
    image = 100.0 * truth + noise(64, 60)
    ours = run("edge-canny", image, output="edges") == 1
    theirs = canny(image, 1.5, low_threshold=0.9, high_threshold=0.95, use_quantiles=True)
    assert (binary_dilation(theirs, np.ones((3, 3)))[ours]).all()
    assert (binary_dilation(ours, np.ones((3, 3)))[theirs]).mean() > 0.95
    assert 0.8 < ours.sum() / (2 * np.pi * 18) < 1.6, "one pixel wide"


@pytest.mark.parametrize("operator", ["sobel", "kirsch", "canny"])
def test_parallel_detection_is_its_operator_closed(operator: str) -> None:
    image = 100.0 * ball((40, 40), 12, (1.0, 1.0)) + noise(40, 40)
    assert np.array_equal(
        run("edge-parallel", image, operator=operator), run(f"edge-{operator}", image, sigma_mm=1.0)
    )


def test_serial_detection_follows_a_weak_outline_all_round() -> None:
    truth = ball((90, 100), 27, (1.0, 1.0))
    shade = np.linspace(40, 120, 100)[None].repeat(90, axis=0)
    image = shade * truth + 2 * noise(90, 100)
    assert dice(run("edge-serial", image, objects=1) == 1, truth) > 0.95


def test_serial_detection_takes_no_path_that_edges_do_not_carry() -> None:
    image = np.zeros((60, 60))
    image[:30] = 100.0
    assert not run("edge-serial", image + noise(60, 60)).any(), (
        "an edge from border to border encloses nothing"
    )


def test_serial_detection_visits_the_points_of_a_prompt() -> None:
    truth = np.zeros((60, 60), dtype=bool)
    truth[15:45, 12:40] = True
    corners = np.array([[15, 12], [15, 39], [44, 39], [44, 12]], dtype=float)
    prompt = Prompt(points=corners, point_classes=np.ones(4, dtype=int))
    assert dice(run("edge-serial", 100.0 * truth + noise(60, 60), prompt=prompt) == 1, truth) > 0.93
    with pytest.raises(UserError, match="1 points on the outline"):
        run(
            "edge-serial",
            100.0 * truth,
            prompt=Prompt(points=corners[:1], point_classes=np.ones(1, dtype=int)),
        )
    with pytest.raises(UserError, match="outside the image"):
        run(
            "edge-serial",
            100.0 * truth,
            prompt=Prompt(points=corners + 30, point_classes=np.ones(4, dtype=int)),
        )


def test_a_gap_in_an_outline_is_closed_up_to_its_width() -> None:
    ring = ball((50, 50), 15, (1.0, 1.0)) & ~ball((50, 50), 13, (1.0, 1.0))
    ring[24:27, :25] = False
    inside = ball((50, 50), 14, (1.0, 1.0))
    assert not enclosed(ring, 0.5, (1.0, 1.0)).any()
    assert dice(enclosed(ring, 2.5, (1.0, 1.0)), inside) > 0.93


def test_an_object_cut_by_the_image_border_is_enclosed_and_a_loose_edge_is_not() -> None:
    edges = np.zeros((30, 30), dtype=bool)
    edges[:12, 12] = edges[12, :13] = True
    edges[20:25, 22] = True
    found = enclosed(edges, 0.0, (1.0, 1.0))
    assert found[:12, :12].all()
    assert not found[14:, 14:].any()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"output": "region"}, "output is 'region', did you mean regions"),
        ({"threshold": "otzu"}, "threshold is 'otzu'"),
        ({"threshold": -1.0}, "threshold is -1.0"),
        ({"sigma_mm": -1.0}, "sigma_mm is -1.0"),
        ({"low": 2.0}, "low is 2.0"),
        ({"closing_mm": -2.0}, "closing_mm is -2.0"),
    ],
)
def test_a_wrong_argument_is_named(parameters: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run("edge-sobel", np.eye(12), **parameters)
    assert caught.value.where == "system edge-sobel"


def test_arguments_of_single_operators_are_checked() -> None:
    with pytest.raises(UserError, match="cutoff is 0"):
        run("edge-fourier-highpass", np.eye(8), cutoff=0)
    with pytest.raises(UserError, match="hat_mm is 0"):
        run("edge-log", np.eye(8), hat_mm=0)
    with pytest.raises(UserError, match="operator is 'scharr'"):
        run("edge-parallel", np.eye(8), operator="scharr")
    with pytest.raises(UserError, match="accept is 2"):
        run("edge-serial", np.eye(8), accept=2)
    with pytest.raises(UserError, match=r"has no argument 'sigma', did you mean sigma_mm"):
        build("edge-sobel", dims=2, in_channels=1, classes=2, sigma=3.0)
