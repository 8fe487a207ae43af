"""The fast mode draws what albumentations draws: parameters, combinations and effects, by tests of distributions.

Samples are fixed by seeds. Two-sample Kolmogorov-Smirnov tests for amounts, chi-square for counts; a probability below
``UNLIKELY`` fails. With 3,000 draws a distribution function that is 0.05 off anywhere does.
"""

import itertools

import albumentations
import cv2
import numpy as np
import pytest
from scipy import stats

from study.data.augment import make_augment
from study.data.augment_map import source_map
from study.data.augment_policies import POLICIES, Kind
from study.data.augment_recipe import Recipe, draw_recipe, dropped_pixels, grid_holes
from study.data.augment_spec import PIXEL_DROPOUT_RATE, SPECS

HW = (200, 160)
DRAWS = 3000
UNLIKELY = 1e-3
POLICY_NAMES = ("mammogram", "multitask", "fundus")
IMAGE = np.zeros(HW, np.uint8)


@pytest.fixture(scope="module")
def recipes():
    """3,000 recipes of each policy."""
    return {
        policy: [draw_recipe(SPECS[policy], image_hw=HW, seed=11, draw=draw) for draw in range(DRAWS)]
        for policy in POLICY_NAMES
    }


def theirs(policy, name, *, count=DRAWS, place=0):
    """Parameters that the ``place``-th transform of this name draws, from albumentations' own generators."""
    found = [one for one in POLICIES[policy](Kind(image_hw=HW)) if type(one).__name__ == name]
    transform = found[place]
    transform.set_random_seed(5)
    for _ in range(count):
        params = transform.update_transform_params(transform.get_params(), {"image": IMAGE})
        yield params | transform.get_params_dependent_on_data(params, {"image": IMAGE})


def assert_alike(ours, others):
    assert stats.ks_2samp(ours, others).pvalue > UNLIKELY


def shifts(params):
    """The shift of an affine change: where the frame's centre goes."""
    centre = np.array([HW[1] / 2 - 0.5, HW[0] / 2 - 0.5, 1.0])
    return [(one["matrix"] @ centre - centre)[:2] for one in params]


def test_affine_changes(recipes):
    """Angles, zooms or shifts of `mammogram` come from other distributions."""
    params = list(theirs("mammogram", "Affine"))
    ours = [one.move for one in recipes["mammogram"] if one.move]
    assert_alike([one.rotate for one in ours], [one["rotate"] for one in params])
    assert_alike([one.zoom for one in ours], [one["scale"]["x"] for one in params])
    for axis, most in enumerate((9, 12)):  # whole px below 0.0625 of 160 and of 200
        counted = [[one.shift_xy[axis] for one in ours], np.rint([shift[axis] for shift in shifts(params)]).tolist()]
        levels = sorted({*counted[0], *counted[1]})
        table = [[values.count(level) for level in levels] for values in counted]
        assert stats.chi2_contingency(table).pvalue > UNLIKELY
        assert (levels[0], levels[-1]) == (-most, most)


def test_translation_and_zoom_of_multitask(recipes):
    """Shifts or zooms of `multitask` come from other distributions."""
    moves = [one.move for one in recipes["multitask"] if one.move]
    zooms = [one.zoom.zoom for one in recipes["multitask"] if one.zoom]
    others = shifts(theirs("multitask", "Affine"))
    for axis in range(2):
        assert_alike([one.shift_xy[axis] for one in moves], np.rint([shift[axis] for shift in others]))
    assert_alike(zooms, [one["scale"]["x"] for one in theirs("multitask", "Affine", place=1)])
    assert {(one.zoom, one.rotate) for one in moves} == {(1.0, 0.0)}


def test_lens(recipes):
    """The lens bends otherwise: where the frame's first pixel comes from."""
    ours = []
    for one in recipes["mammogram"]:
        if one.lens is not None:
            path = source_map(Recipe(lens=one.lens), HW)
            ours.append((path.rows_hk[0] @ path.columns_k2w)[0])
    assert_alike(ours, [one["map_x"][0, 0] for one in theirs("mammogram", "OpticalDistortion")])


def test_grid(recipes):
    """The grid bends otherwise: where pixels at several places of a row and a column come from."""
    ours = []
    for one in recipes["mammogram"]:
        if one.grid is not None:
            path = source_map(Recipe(grid=one.grid), HW)
            ours.append(path.rows_hk @ path.columns_k2w)
    others = list(theirs("mammogram", "GridDistortion", count=800))
    for place in (15, 60, 101, 155):
        assert_alike([one[0, place] for one in ours], [one["map_x"][0, place] for one in others])
        assert_alike([one[place, HW[1]] for one in ours], [one["map_y"][place, 0] for one in others])


@pytest.mark.parametrize(
    ("policy", "name", "ours", "others"),
    [
        ("mammogram", "CLAHE", lambda one: one.clip_limit, lambda one: one["clip_limit"]),
        ("mammogram", "RandomGamma", lambda one: one.gamma, lambda one: one["gamma"]),
        (
            "mammogram",
            "RandomBrightnessContrast",
            lambda one: one.contrast and one.contrast[0],
            lambda one: one["alpha"],
        ),
        (
            "mammogram",
            "RandomBrightnessContrast",
            lambda one: one.contrast and one.contrast[1] * 255,
            lambda one: one["beta"],
        ),
        ("mammogram", "Sharpen", lambda one: one.sharpening and one.sharpening[0], lambda one: one["alpha"]),
        (
            "mammogram",
            "Sharpen",
            lambda one: one.sharpening and 1 - one.sharpening[0] + one.sharpening[0] * (8 + one.sharpening[1]),
            lambda one: one["sharpening_matrix"][1, 1],
        ),
        ("fundus", "RandomGamma", lambda one: one.gamma, lambda one: one["gamma"]),
        ("fundus", "SigmoidContrast", lambda one: one.gain, lambda one: one["gain"]),
    ],
)
def test_levels(recipes, policy, name, ours, others):
    """An amount of brightness, contrast or sharpness comes from another distribution."""
    values = [value for one in recipes[policy] if (value := ours(one)) is not None]
    assert_alike(values, [others(one) for one in theirs(policy, name)])


def test_dropped_pixels():
    """The number of dropped pixels or their places come from another distribution."""
    generator = np.random.default_rng(3)
    ours = [dropped_pixels(HW, generator) for _ in range(400)]
    others = [np.flatnonzero(one["drop_mask"]) for one in theirs("mammogram", "PixelDropout", count=400)]
    assert_alike([len(one) for one in ours], [len(one) for one in others])
    assert_alike(np.concatenate(ours), np.concatenate(others))
    assert all(len(np.unique(one)) == len(one) for one in ours)
    pixels = HW[0] * HW[1]
    assert np.mean([len(one) for one in ours]) == pytest.approx(pixels * PIXEL_DROPOUT_RATE, rel=0.01)


@pytest.mark.parametrize("hw", [HW, (64, 64), (37, 90)])
def test_holes(hw):
    """Holes are more or fewer, larger or smaller, or elsewhere in their cells."""
    transform = albumentations.GridDropout(ratio=SPECS["mammogram"].holes_ratio)
    transform.set_random_seed(2)
    generator = np.random.default_rng(3)
    ours = np.stack([grid_holes(hw, transform.ratio, generator) for _ in range(150)])
    others = np.stack(
        [transform.get_params_dependent_on_data({"shape": hw}, {})["holes"].astype(np.int64) for _ in range(150)]
    )
    assert ours.shape == others.shape
    for low, high in ((0, 2), (1, 3)):
        assert_alike((ours[..., high] - ours[..., low]).ravel(), (others[..., high] - others[..., low]).ravel())
    for column in range(4):
        assert_alike(ours[..., column].ravel(), others[..., column].ravel())
        for cell in (0, ours.shape[1] // 2, -1):
            assert_alike(ours[:, cell, column], others[:, cell, column])


def happens(recipe):
    """Which of the twelve things happen; a turn by 0 degrees cannot be seen."""
    return [
        recipe.quarter_turns > 0,
        recipe.is_mirrored_x,
        recipe.is_mirrored_y,
        *(value is not None for value in (recipe.move, recipe.zoom, recipe.lens, recipe.grid, recipe.clip_limit)),
        *(value is not None for value in (recipe.contrast, recipe.gamma, recipe.gain, recipe.sharpening)),
        *(value is not None for value in (recipe.dropped_n, recipe.holes_n4)),
    ]


def chances(policy):
    spec = SPECS[policy]
    parts = (spec.move, spec.zoom, spec.lens, spec.grid, spec.clahe, spec.contrast, spec.gamma, spec.gain)
    turn = spec.turn / 4  # half a turn, in a frame that is not square
    return np.array(
        [turn, spec.flip_x, spec.flip_y]
        + [part.p if part else 0.0 for part in (*parts, spec.sharpening)]
        + [spec.dropout, spec.holes]
    )


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_what_happens_together(recipes, policy):
    """A step is rarer or more frequent than its probability, or steps do not come independently of each other."""
    table = np.array([happens(one) for one in recipes[policy]], dtype=float)
    p = chances(policy)
    np.testing.assert_array_less(np.abs(table.mean(axis=0) - p), 4 * np.sqrt(p * (1 - p) / DRAWS) + 1e-12)
    used = np.flatnonzero(p)
    for one, other in itertools.combinations(used, 2):
        counts = stats.contingency.crosstab(table[:, one], table[:, other]).count
        assert stats.chi2_contingency(counts).pvalue > UNLIKELY / 10
    expected = np.ones(1)
    for chance in p:
        expected = np.convolve(expected, [1 - chance, chance])
    found = np.bincount(table.sum(axis=1).astype(int), minlength=len(expected))
    enough = expected * DRAWS >= 5
    found, expected = (np.append(one[enough], one[~enough].sum()) for one in (found, expected * DRAWS))
    kept = expected > 0
    assert stats.chisquare(found[kept], expected[kept] * found.sum() / expected.sum()).pvalue > UNLIKELY


def test_quarter_turns_are_alike():
    """One of the four turns is rarer, or half of the pictures are not left alone."""
    turns = [
        draw_recipe(SPECS["mammogram"], image_hw=(32, 32), seed=1, draw=draw).quarter_turns for draw in range(DRAWS)
    ]
    counts = np.bincount(turns, minlength=4)
    assert stats.chisquare(counts, DRAWS * np.array([0.625, 0.125, 0.125, 0.125])).pvalue > UNLIKELY


def breasts(side):
    """Half ellipses of smooth tissue on black, as prepared mammograms are."""
    y, x = np.mgrid[:side, :side] / side
    for seed in range(4):
        rng = np.random.default_rng(seed)
        tissue = cv2.GaussianBlur(rng.random((side, side)), (0, 0), 2)
        tissue = 60 + 150 * (tissue - tissue.min()) / (tissue.max() - tissue.min())
        inside = ((x - 0.2) / rng.uniform(0.4, 0.6)) ** 2 + ((y - 0.5) / 0.5) ** 2 < 1
        yield np.where(inside & (x >= 0.2), tissue, 0).astype(np.uint8)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_effects_on_pictures(policy):
    """Mean, spread, share of black or bright levels of augmented pictures differ between both modes."""
    values, images = {}, list(breasts(96))
    for mode in ("fast", "compatible"):
        augment = make_augment(policy, image_hw=(96, 96), mode=mode)
        outs = [augment(images[draw % 4], seed=7, draw=draw) for draw in range(700)]
        values[mode] = np.array(
            [[out.mean(), out.std(), (out < 8).mean(), np.quantile(out, 0.9), centre_of(out)] for out in outs]
        )
        values[f"{mode} edges"] = np.mean([np.abs(np.diff(out.astype(float), axis=0)).mean() for out in outs])
    for statistic in range(values["fast"].shape[1]):
        assert_alike(values["fast"][:, statistic], values["compatible"][:, statistic])
    assert 0.97 < values["fast edges"] / values["compatible edges"] < 1.15  # blurred once, not up to three times


def centre_of(picture):
    return (picture.sum(axis=1) @ np.arange(len(picture))) / max(1, picture.sum())
