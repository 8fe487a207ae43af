"""Stored pixels to network input."""

import numpy as np
import pytest
import torch

from study.models.inputs import to_input, to_tensor


def test_grey_pixels_by_hand():
    """Black and white come out at other values than (0 - 0.449) / 0.226 and (1 - 0.449) / 0.226."""
    pixels = np.array([[[0, 255]]], dtype=np.uint8)
    images = to_input(to_tensor(pixels))
    assert images.shape == (1, 1, 1, 2)
    assert images.dtype == torch.float32
    assert images.flatten().tolist() == pytest.approx([-0.449 / 0.226, 0.551 / 0.226], abs=1e-6)


def test_sixteen_bits_look_like_eight():
    """A dataset of 16-bit shards gives the network other brightnesses than the same one in 8 bits."""
    eight = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    sixteen = eight.astype(np.uint16) * 257
    torch.testing.assert_close(to_input(to_tensor(eight)), to_input(to_tensor(sixteen)))


def test_colour_is_normalised_channel_by_channel():
    """Pretrained weights see colours shifted, or rows and channels in the wrong places."""
    pixels = np.zeros((2, 4, 5, 3), dtype=np.uint8)
    pixels[..., 1] = 255
    images = to_input(to_tensor(pixels))
    assert images.shape == (2, 3, 4, 5)
    found = images[1, :, 3, 4].tolist()
    assert found == pytest.approx([-0.485 / 0.229, (1 - 0.456) / 0.224, -0.406 / 0.225], abs=1e-6)
