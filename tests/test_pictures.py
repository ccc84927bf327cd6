"""Pictures: what is in the numbers is on the paper, whatever the columns are called."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_wine, make_moons

from iresnet import pictures
from iresnet.errors import UserError

EXTENT = (-1.6, 2.6, -1.2, 1.7)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def near(image: np.ndarray, colour: tuple[int, int, int], within: int) -> np.ndarray:
    return np.abs(image - np.array(colour)).sum(-1) < within


def blue(image: np.ndarray) -> np.ndarray:
    """The data's colour, also where it is half transparent."""
    return image[..., 2] - image[..., 0] > 50


def red(image: np.ndarray) -> np.ndarray:
    """The samples' colour."""
    return image[..., 0] - image[..., 2] > 50


def gaussian(shift: float = 0.0) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(*EXTENT[:2], 80), np.linspace(*EXTENT[2:], 60))
    return -((x - 0.5 - shift) ** 2 + (y - 0.25) ** 2) / 0.18


def test_density_shows_data_samples_and_both_maps(tmp_path: Path) -> None:
    data, samples = make_moons(800, noise=0.1, random_state=0)[0], make_moons(500, noise=0.1, random_state=1)[0]
    path = pictures.density_2d(tmp_path / "new" / "density.png", gaussian(), EXTENT, data, torch.from_numpy(samples))
    image = pixels(path)
    height, width, _ = image.shape
    upper, lower = image[: height // 2], image[height // 2 :]
    assert blue(upper[:, : width // 2]).sum() > 1000 > blue(upper[:, width // 2 :]).sum()
    assert red(upper[:, width // 2 :]).sum() > 1000 > red(upper[:, : width // 2]).sum()
    dark = [(half.sum(-1) < 350).mean() for half in (lower[:, : width // 2], lower[:, width // 2 :])]
    assert 0 < dark[0] < dark[1]  # the logarithm shows more of the tail than the density does
    assert {p.name for p in path.parent.iterdir()} == {"density.png"}


def test_the_density_map_has_its_first_row_at_the_bottom(tmp_path: Path) -> None:
    grid = np.full((60, 80), -50.0)
    grid[2:14, 4:20] = 0.0  # low y, low x
    image = pixels(pictures.density_2d(tmp_path / "d.png", grid, EXTENT))
    rows, columns = np.nonzero(near(image[:, : image.shape[1] // 2], (127, 39, 4), 30))
    assert rows.mean() > image.shape[0] / 2 and columns.mean() < image.shape[1] / 4


def test_a_density_that_is_nowhere_or_partly_finite(tmp_path: Path) -> None:
    grid = gaussian()
    grid[:30], grid[40:] = -math.inf, math.nan
    assert pictures.density_2d(tmp_path / "d.png", torch.from_numpy(grid), EXTENT, samples=np.zeros((3, 2))).exists()
    with pytest.raises(UserError, match="nowhere finite"):
        pictures.density_2d(tmp_path / "e.png", np.full((4, 4), -math.inf), EXTENT)
    assert not (tmp_path / "e.png").exists()


@pytest.mark.parametrize("width", [1, 2, 5, 13])
def test_pairs_of_any_number_of_columns(tmp_path: Path, width: int) -> None:
    wine = load_wine().data[:, :width]
    image = pixels(pictures.pairs(tmp_path / "p.png", [f"c{i}" for i in range(width)], wine, wine[::-1] * 1.1))
    assert red(image).sum() > 300 and blue(image).sum() > 300
    assert image.shape[0] <= 1600


def test_pairs_show_a_dependence_where_it_is(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=2000)
    lower = pixels(pictures.pairs(tmp_path / "p.png", ["a", "b"], np.c_[x, x]))
    half = lower.shape[0] // 2
    rows, columns = np.nonzero(blue(lower[half:, : lower.shape[1] // 2]))
    assert np.corrcoef(rows, columns)[0, 1] < -0.8  # up the page is up the axis


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$\\frac{1", "$x$_{", "<b>", "a\x00\n\u202eb", "名前", "", "long " * 30, "\ud800"])
def test_hostile_column_names_are_drawn_as_they_are(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    assert pictures.pairs(tmp_path / "p.png", [name, name], values, values).stat().st_size > 1000


def test_pairs_with_constants_outliers_and_missing_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(400, 3))
    values[:, 1], values[0, 0], values[1, 0], values[2, 2] = 7.0, 1e30, math.nan, math.inf
    image = pixels(pictures.pairs(tmp_path / "p.png", ["a", "b", "c"], values))
    third = image.shape[0] // 3
    assert blue(image[2 * third :, :third]).sum() > 500  # the outlier did not squeeze the rest into a line
    with pytest.raises(UserError, match="'b' holds no finite number"):
        pictures.pairs(tmp_path / "q.png", ["a", "b"], np.array([[1.0, math.nan], [2.0, math.nan]]))


def test_image_grids_show_the_images(tmp_path: Path) -> None:
    digits = load_digits().images
    image = pixels(
        pictures.image_grid(tmp_path / "i.png", torch.from_numpy(digits[:64]), digits[64:200], scale=(0, 16))
    )
    assert image.shape[1] > 1.7 * image.shape[0]
    drawn = [np.corrcoef(_first_cell(image, left).ravel(), digits[i].ravel())[0, 1] for left, i in ((0, 64), (1, 0))]
    assert min(drawn) > 0.9
    colour = np.zeros((5, 4, 4, 3))
    colour[..., 0] = 1.0
    picture = pixels(pictures.image_grid(tmp_path / "c.png", colour))
    assert near(picture, (255, 0, 0), 5).sum() > 1000
    assert pixels(pictures.image_grid(tmp_path / "n.png", np.full((1, 3, 3), math.nan))).size


def _first_cell(image: np.ndarray, panel: int) -> np.ndarray:
    """The first of the 64 images of the left or right panel, brought back to 8 x 8."""
    half = image.shape[1] // 2
    grey = image[:, panel * half : (panel + 1) * half].mean(-1)
    rows, columns = np.nonzero(grey < 30)
    top, left, size = rows.min(), columns.min(), (rows.max() - rows.min() + 1) / 71 * 8
    cell = Image.fromarray(grey[top : top + round(size), left : left + round(size)].astype(np.uint8))
    return np.asarray(cell.resize((8, 8), Image.Resampling.BOX), dtype=float)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda p: pictures.density_2d(p, np.zeros(4), EXTENT), "2 dimensions"),
        (lambda p: pictures.density_2d(p, np.zeros((4, 4)), (1, 0, 0, 1)), "extent must be"),
        (lambda p: pictures.density_2d(p, np.zeros((4, 4)), EXTENT, np.zeros((5, 3))), "data has 3 columns where 2"),
        (lambda p: pictures.pairs(p, [], np.zeros((4, 0))), "no columns"),
        (lambda p: pictures.pairs(p, ["a"], np.zeros((4, 2))), "data has 2 columns where 1"),
        (lambda p: pictures.image_grid(p, np.zeros((4, 2))), "3 or 4 dimensions"),
        (lambda p: pictures.image_grid(p, np.zeros((4, 2, 2, 2))), r"\(N, H, W, 3\)"),
        (lambda p: pictures.image_grid(p, np.zeros((0, 2, 2))), "no image"),
    ],
)
def test_user_errors(tmp_path: Path, draw, said: str) -> None:
    with pytest.raises(UserError, match=said):
        draw(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_pictures_do_not_depend_on_settings_nor_change_them(tmp_path: Path) -> None:
    draw = lambda name: pictures.density_2d(tmp_path / name, gaussian(), EXTENT, np.eye(2)).read_bytes()  # noqa: E731
    first, before = draw("a.png"), dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 40, "savefig.dpi": 20}):
        assert draw("b.png") == first
    assert dict(mpl.rcParams) == before


def test_a_sheet_shows_every_pixel_where_it_belongs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    shown = pixels(pictures.sheet(tmp_path / "sheet.png", torch.from_numpy(images), 3))
    factor = shown.shape[1] // 20
    assert shown.shape == (9 * factor, 20 * factor, 3)
    small = shown[::factor, ::factor]
    assert (shown == small.repeat(factor, 0).repeat(factor, 1)).all()
    for place, image in enumerate(images):
        top, left = place // 3 * 5, place % 3 * 7
        assert (small[top : top + 4, left : left + 6] == image.transpose(1, 2, 0)).all()
    assert (small[5:, 14:] == 255).all() and (small[4] == 255).all()  # no sixth image, and white between the rows


def test_a_sheet_spreads_few_levels_from_black_to_white_and_cuts_the_rest(tmp_path: Path) -> None:
    images = np.array([[[[0.0, 16.9], [-3.0, 40.0]]]])
    shown = pixels(pictures.sheet(tmp_path / "sheet.png", images, levels=17))
    corners = shown[[0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert corners.tolist() == [0, 255, 0, 255]


def test_a_sheet_refuses_what_is_no_image(tmp_path: Path) -> None:
    for shape in ((0, 1, 4, 4), (2, 2, 4, 4)):
        with pytest.raises(UserError, match="a sheet takes 1 to 10,000 images of 1 or 3 channels"):
            pictures.sheet(tmp_path / "sheet.png", np.zeros(shape))
    assert not list(tmp_path.iterdir())


def test_a_single_mistake_is_seen_where_it_belongs(tmp_path: Path) -> None:
    """One row of class 0 in a hundred taken for class 3: the upper right cell turns orange, its mirror image does not."""
    counts = 100 * np.eye(4)
    clean = pixels(pictures.confusion_matrix(tmp_path / "clean.png", counts, "abcd"))
    assert blue(clean).sum() > 10_000 and red(clean).sum() == 0
    counts[0, 3] = 1
    image = pixels(pictures.confusion_matrix(tmp_path / "one.png", counts, "abcd", "letter"))
    rows, columns = np.nonzero(image[..., 0] - image[..., 2] > 25)
    assert len(rows) > 500 and rows.max() < image.shape[0] / 3 and columns.min() > image.shape[1] / 2
    with pytest.raises(UserError, match=r"of 3 classes has as many rows and columns, not shape \(4, 4\)"):
        pictures.confusion_matrix(tmp_path / "no.png", counts, "abc")


def test_a_hundred_classes_are_drawn_without_numbers(tmp_path: Path) -> None:
    levels = [f"class {k} $x_1$" for k in range(100)]
    assert blue(pixels(pictures.confusion_matrix(tmp_path / "many.png", np.eye(100), levels))).sum() > 1000
