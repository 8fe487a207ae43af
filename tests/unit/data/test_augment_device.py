"""Augmentation of whole batches by torch: the fast mode's recipes and, within rounding, its pictures."""

import cv2
import numpy as np
import pytest
import torch

from study.data.augment import make_augment
from study.data.augment_device import DeviceAugment, carried_out
from study.data.augment_device_levels import clahe, equalised, lab_of_rgb, rgb_of_lab
from study.data.augment_levels import equalised as equalised_in_place
from study.data.augment_recipe import Recipe
from study.errors import InputError
from study.models.inputs import to_tensor
from tests.unit.data.test_augment_fast import smooth

COUNT = 24


def batch(hw, channels=1, bits=8):
    return np.stack([smooth(hw, channels, seed=seed, bits=bits) for seed in range(COUNT)])


def arrays(images_nchw):
    pixels = images_nchw.to(torch.int32).permute(0, 2, 3, 1).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


@pytest.mark.parametrize("policy", ["mammogram", "multitask", "fundus"])
@pytest.mark.parametrize(
    ("hw", "channels", "bits"), [((96, 96), 1, 8), ((96, 128), 3, 8), ((101, 67), 1, 16), ((64, 64), 3, 16)]
)
def test_pictures_are_those_of_the_fast_mode(policy, hw, channels, bits):
    """A batch on the device is more than rounding away from the same draws of the fast mode."""
    images, draws = batch(hw, channels, bits), 5 + 7 * np.arange(COUNT)
    expected = make_augment(policy, image_hw=hw, channels=channels, bits=bits).block(images, seed=3, draws_n=draws)
    given = to_tensor(images)
    before = given.clone()
    made = DeviceAugment(policy, seed=3)(given, draws_n=draws)
    assert (made.dtype, made.shape) == (given.dtype, given.shape)
    assert torch.equal(given.to(torch.int32), before.to(torch.int32))
    apart = np.abs(arrays(made) - expected.astype(np.int64)) / (1 if bits == 8 else 257)
    assert apart.mean() < 0.05
    assert (apart > 2).mean() < 0.005


def test_a_picture_does_not_depend_on_its_batch():
    """Another batch, order or size gives a picture other bytes."""
    images, draws = to_tensor(batch((64, 64))), np.arange(COUNT) + 10**9
    augment = DeviceAugment("mammogram", seed=1)
    whole = augment(images, draws_n=draws)
    order = np.random.default_rng(0).permutation(COUNT)
    for part in (order[:7], order[7:8], order[8:]):
        assert torch.equal(augment(images[part], draws_n=draws[part]), whole[part])
    assert not torch.equal(DeviceAugment("mammogram", seed=2)(images, draws_n=draws), whole)


def test_nothing_changes_nothing():
    """A recipe without steps, or the policy without transforms, changes a byte."""
    for images in (to_tensor(batch((40, 56))), to_tensor(batch((40, 56), 3, 16))):
        assert torch.equal(carried_out(images, [Recipe()] * COUNT).to(torch.int32), images.to(torch.int32))
        assert DeviceAugment("none", seed=0)(images, draws_n=range(COUNT)) is images
    empty = torch.zeros((0, 1, 8, 8), dtype=torch.uint8)
    assert DeviceAugment("mammogram", seed=0)(empty, draws_n=[]) is empty


@pytest.mark.parametrize("hw", [(64, 64), (96, 128), (101, 67), (128, 100)])
def test_equalisation_is_bit_for_bit_that_of_opencv(hw):
    """Tiles, clipping, what is spread, or the weights of the four tables are not OpenCV's."""
    limits = np.array([1.0, 1.2, 1.5, 3.0])
    images = np.stack([smooth(hw, seed=seed) for seed in range(len(limits))])
    ours = clahe(torch.from_numpy(images).float(), limits).numpy()
    for image, limit, our in zip(images, limits, ours, strict=True):
        np.testing.assert_array_equal(our, cv2.createCLAHE(clipLimit=limit, tileGridSize=(8, 8)).apply(image))


def test_colours_are_those_of_opencv():
    """Lightness of a colour is another than OpenCV's, or the way back is."""
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    ours = arrays(lab_of_rgb(to_tensor(rgb[None]).float()))[0]
    np.testing.assert_array_equal(ours[..., 0], lab[..., 0])
    assert np.abs(ours - lab.astype(int)).max() <= 1
    assert np.abs(arrays(rgb_of_lab(to_tensor(lab[None]).float()))[0] - rgb.astype(int)).mean() < 1.5
    theirs = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(int)
    assert np.abs(arrays(rgb_of_lab(to_tensor(lab[None]).float()))[0] - theirs).max() <= 2
    equal = smooth((96, 128), 3)
    made = arrays(equalised(to_tensor(equal[None]).float(), np.array([1.4]), bits=8))[0]
    equalised_in_place(equal, 1.4)
    assert np.abs(made - equal.astype(int)).max() <= 2


@pytest.mark.parametrize(
    ("images", "draws"),
    [
        (torch.zeros((2, 1, 8, 8)), [0, 1]),
        (torch.zeros((2, 8, 8), dtype=torch.uint8), [0, 1]),
        (torch.zeros((2, 2, 8, 8), dtype=torch.uint8), [0, 1]),
        (torch.zeros((2, 1, 8, 8), dtype=torch.uint8), [0]),
    ],
)
def test_other_batches_are_refused(images, draws):
    """Images that no recipe was made for pass, or images without a draw."""
    with pytest.raises(InputError, match="expected"):
        DeviceAugment("mammogram", seed=0)(images, draws_n=draws)
    with pytest.raises(InputError, match="expected one of none, mammogram"):
        DeviceAugment("mamogram", seed=0)


@pytest.mark.gpu
def test_a_gpu_gives_the_pictures_of_the_cpu():
    """The GPU rounds a map to half a pixel, or a step does not run there."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    images, draws = to_tensor(batch((256, 256))), np.arange(COUNT)
    augment = DeviceAugment("mammogram", seed=0)
    apart = (augment(images.cuda(), draws_n=draws).cpu().int() - augment(images, draws_n=draws).int()).abs()
    assert apart.float().mean() < 0.02
    assert (apart > 2).float().mean() < 0.002
