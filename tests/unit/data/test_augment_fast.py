"""The fast mode: each step is albumentations', blocks are single calls, and nothing but the recipe counts."""

import dataclasses

import albumentations
import cv2
import numpy as np
import pytest

from study.data import augment_warp
from study.data.augment import MODES, POLICIES, make_augment
from study.data.augment_levels import relevelled
from study.data.augment_map import is_bent
from study.data.augment_policies import Kind, library
from study.data.augment_recipe import Affine, Grid, Recipe, draw_recipe, mixed_key
from study.data.augment_spec import SPECS
from study.errors import InputError
from tests.unit.data import augment_reference as reference

MOVE = Affine(shift_xy=(5, -3), zoom=1.07, rotate=33.0)
GRID = Grid(steps_x=(1.2, 0.8, 1.0, 0.71, 1.29, 0.9), steps_y=(0.7, 1.3, 1.1, 0.9, 1.0, 1.2))
SHAPES = [(96, 96), (96, 128), (101, 67)]


def smooth(hw, channels=1, seed=0, bits=8):
    """A smooth picture with all levels."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random((*hw, 3)), (0, 0), 3)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    pixels = (noise * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    return np.ascontiguousarray(pixels if channels == 3 else pixels[..., 0])


def warped(image, recipe):
    out = np.full_like(image, 77)
    augment_warp.warped(image, recipe, out)
    return out


@pytest.mark.parametrize("hw", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_turns_and_flips_are_exact(hw, channels):
    """A turn or a flip goes the other way, comes in another order, or changes a pixel's value."""
    image = smooth(hw, channels)
    for turns in range(4) if hw[0] == hw[1] else (0, 2):
        for x in (False, True):
            for y in (False, True):
                recipe = Recipe(quarter_turns=turns, is_mirrored_x=x, is_mirrored_y=y)
                np.testing.assert_array_equal(warped(image, recipe), reference.moved(image, recipe))


@pytest.mark.parametrize("hw", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "step", [{"move": MOVE}, {"zoom": Affine(zoom=0.8)}, {"lens": 0.3}, {"lens": -0.3}, {"grid": GRID}]
)
def test_one_step_is_that_of_albumentations(hw, channels, step):
    """An affine change, a lens or a grid, alone or behind a turn, is further than rounding from the library's."""
    image = smooth(hw, channels)
    turned = {"quarter_turns": 1 if hw[0] == hw[1] else 2, "is_mirrored_x": True}
    for recipe in (Recipe(**step), Recipe(**step, **turned)):
        apart = np.abs(warped(image, recipe).astype(int) - reference.moved(image, recipe))
        assert apart.max() <= 1
        assert apart.mean() < 0.01


@pytest.mark.parametrize("hw", SHAPES)
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(move=MOVE, lens=0.3, is_mirrored_y=True),
        Recipe(move=MOVE, lens=-0.3),
        Recipe(move=MOVE, grid=GRID),
        Recipe(lens=0.25, grid=GRID),
        Recipe(move=MOVE, lens=0.3, grid=GRID, quarter_turns=2),
        Recipe(move=Affine(shift_xy=(9, -6)), zoom=Affine(zoom=0.8), is_mirrored_y=True, is_flipped_last=True),
    ],
)
def test_several_steps_in_one(hw, recipe):
    """One composed warp shows other places than the steps one after the other, or what they had lost."""
    image = smooth(hw)
    image = np.maximum(image, 60)  # so that what is black came from outside
    ours, theirs = warped(image, recipe).astype(int), reference.moved(image, recipe).astype(int)
    outside = (ours < 20) != (theirs < 20)
    assert outside.mean() < 0.03
    assert not cv2.erode(outside.astype(np.uint8), np.ones((3, 3))).any()  # within a pixel or two of the edge
    inside = cv2.erode(((ours >= 60) & (theirs >= 60)).astype(np.uint8), np.ones((5, 5))).astype(bool)
    apart = np.abs(ours - theirs)[inside]
    assert apart.mean() < 2.5  # the steps blur anew each time
    assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.995


@pytest.mark.parametrize("channels", [1, 3])
def test_levels_are_bit_for_bit_those_of_albumentations(channels):
    """Equalisation, brightness, contrast, gamma, sharpening or dropouts differ in one bit from the library's."""
    image = smooth((96, 80), channels)
    for draw in range(80):
        recipe = draw_recipe(SPECS["mammogram"], image_hw=(96, 80), seed=1, draw=draw)
        ours = image.copy()
        relevelled(ours, recipe)
        np.testing.assert_array_equal(ours, reference.relevelled(image, recipe))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("hw", [(64, 64), (300, 280)])
def test_nothing_changes_nothing(hw, channels, bits):
    """A step without an amount changes a byte."""
    image = smooth(hw, channels, bits=bits)
    even = Grid(steps_x=(1.0,) * 6, steps_y=(1.0,) * 6)
    idle = {"move": Affine(), "zoom": Affine(), "lens": 0.0, "grid": even, "contrast": (1.0, 0.0), "gamma": 1.0}
    idle |= {"sharpening": (0.0, 0.7), "dropped_n": np.empty(0, np.int64), "holes_n4": np.empty((0, 4), np.int64)}
    for recipe in (Recipe(), Recipe(**idle), *(Recipe(**{name: value}) for name, value in idle.items())):
        out = warped(image, recipe)
        relevelled(out, recipe)
        np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (1, 16)])
def test_black_is_skipped_without_a_trace(monkeypatch, channels, bits):
    """Leaving out what is black leaves out something that is not."""
    hw = (272, 256)
    image = np.zeros((*hw, 3)[: 2 if channels == 1 else 3], np.uint8 if bits == 8 else np.uint16)
    image[40:230, 60:140] = smooth((190, 80), channels, bits=bits) + 1
    recipes = [draw_recipe(SPECS["mammogram"], image_hw=hw, seed=2, draw=draw) for draw in range(60)]
    recipes = [recipe for recipe in recipes if is_bent(recipe)]
    ours = [warped(image, recipe) for recipe in recipes]
    assert hw[0] * hw[1] > augment_warp.SMALLEST_FRAME
    monkeypatch.setattr(augment_warp, "SMALLEST_FRAME", 10**9)
    for recipe, fast in zip(recipes, ours, strict=True):
        whole = warped(image, recipe).astype(int)
        assert np.abs(whole - fast).max() <= 1
        assert ((whole == 0) == (fast == 0)).mean() > 0.9999
    assert not warped(np.zeros_like(image), Recipe(lens=0.2)).any()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
def test_a_block_is_its_images_one_by_one(policy, mode):
    """A picture depends on the block in which it arrives, on its neighbours, or on the memory of the result."""
    images = np.stack([smooth((48, 40), seed=seed) for seed in range(6)])
    augment = make_augment(policy, image_hw=(48, 40), mode=mode)
    draws = np.array([9, 2, 10**12, 4, 2, 7])
    single = np.stack([augment(image, seed=3, draw=int(draw)) for image, draw in zip(images, draws, strict=True)])
    before = images.copy()
    np.testing.assert_array_equal(augment.block(images, seed=3, draws_n=draws), single)
    order = [5, 0, 3]
    np.testing.assert_array_equal(augment.block(images[order], seed=3, draws_n=draws[order]), single[order])
    out = np.full_like(images, 5)
    assert augment.block(images, seed=3, draws_n=draws.tolist(), out=out) is out
    np.testing.assert_array_equal(out, single)
    np.testing.assert_array_equal(images, before)
    assert augment.block(images[:0], seed=3, draws_n=[]).shape == (0, 48, 40)


def test_blocks_that_do_not_fit_are_refused():
    """Draws are missing, or the result has no memory of its own."""
    augment, images = make_augment("mammogram", image_hw=(16, 16)), np.zeros((3, 16, 16), np.uint8)
    with pytest.raises(InputError, match="2 draws for 3 images"):
        augment.block(images, seed=0, draws_n=[1, 2])
    with pytest.raises(InputError, match=r"expected uint8 \[3, 16, 16\]"):
        augment.block(images, seed=0, draws_n=[1, 2, 3], out=np.zeros((2, 16, 16), np.uint8))
    for out in (images, np.zeros((3, 16, 32), np.uint8)[:, :, ::2]):
        with pytest.raises(InputError, match="expected its own"):
            augment.block(images, seed=0, draws_n=[1, 2, 3], out=out)


def stock(policy, hw):
    """The policies as a user of albumentations writes them, from its own classes alone."""
    a, border = albumentations, {"border_mode": cv2.BORDER_CONSTANT, "fill": 0}
    if policy == "multitask":
        return [
            a.Affine(translate_percent={"x": (-0.1, 0.1), "y": (-0.1, 0.1)}, p=0.5, **border),
            a.Affine(scale=(0.8, 1.2), keep_ratio=True, p=0.5, **border),
            a.VerticalFlip(p=0.5),
        ]
    assert hw[0] == hw[1]
    moved = {"translate_percent": (-0.0625, 0.0625), "scale": (0.9, 1.1), "keep_ratio": True, "rotate": (-45, 45)}
    return [
        a.RandomRotate90(p=0.5),
        a.HorizontalFlip(p=0.5),
        a.VerticalFlip(p=0.5),
        a.Affine(**moved, p=0.35, **border),
        a.OpticalDistortion(distort_limit=(-0.3, 0.3), p=0.5, **border),
        a.GridDistortion(num_steps=5, distort_limit=(-0.3, 0.3), p=0.2, **border),
        a.CLAHE(clip_limit=1.5, p=0.35),
        a.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.5),
        a.RandomGamma(gamma_limit=(80, 120), p=0.5),
        a.Sharpen(alpha=(0.02, 0.2), lightness=(0.5, 1.0), p=0.35),
        a.PixelDropout(dropout_prob=0.01, p=0.3),
        a.GridDropout(ratio=0.35, p=0.1),
    ]


@pytest.mark.parametrize(("policy", "hw"), [("mammogram", (64, 64)), ("multitask", (64, 40))])
@pytest.mark.parametrize("channels", [1, 3])
def test_compatible_is_the_output_of_albumentations(policy, hw, channels):
    """Mode ``compatible`` differs in one byte from albumentations' own classes with the same generators."""
    import random

    pipeline = library().Compose(stock(policy, hw))
    ours = make_augment(policy, image_hw=hw, channels=channels, mode="compatible")
    image = smooth(hw, channels)
    for draw in range(120):
        key = mixed_key(4, draw)
        pipeline.set_random_state(np.random.Generator(np.random.Philox(key=key)), random.Random(key))
        np.testing.assert_array_equal(ours(image, seed=4, draw=draw), pipeline(image=image)["image"])


def test_policies_of_both_modes_have_the_same_names():
    """A policy exists in one mode alone, or a specification names a field that recipes lack."""
    assert set(SPECS) == set(POLICIES)
    assert POLICIES["none"](Kind(image_hw=(8, 8))) == []
    assert draw_recipe(SPECS["none"], image_hw=(32, 32), seed=0, draw=0) == Recipe()
    assert {field.name for field in dataclasses.fields(Recipe)} >= {"lens", "grid", "clip_limit", "gamma", "gain"}
