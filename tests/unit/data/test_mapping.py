"""Points, boxes, circles and heat maps between the original and its prepared frame, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.data.dicom import DicomImage, DicomTags
from study.data.mapping import (
    Placement,
    box_to_original,
    box_to_prepared,
    circle_to_original,
    circle_to_prepared,
    heat_to_original,
    placement_of,
    points_to_original,
    points_to_prepared,
)
from study.data.prepare import PrepareSettings, prepare_image


def image_with(spot, *, side="L", hw=(600, 460)):
    """A breast with a bright square ``spot`` (left, top, right, bottom)."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    distance = x if side == "L" else hw[1] - 1 - x
    pixels = np.where((distance / (0.6 * hw[1])) ** 2 + ((y - 300) / 240) ** 2 < 1, 1000 + 3 * y, 0).astype(np.uint16)
    pixels[spot[1] : spot[3], spot[0] : spot[2]] = 4000
    tags = DicomTags(rows=hw[0], cols=hw[1], bits_stored=12, photometric="MONOCHROME2")
    return DicomImage(pixels=pixels, tags=tags)


SETTINGS = {
    "square": PrepareSettings(image_hw=(256, 256)),
    "wide": PrepareSettings(image_hw=(200, 300)),
    "whole": PrepareSettings(image_hw=(256, 256), crop="none"),
    "multitask": PrepareSettings(image_hw=(256, 256), scaling="multitask"),
    "periodic": PrepareSettings(image_hw=(288, 208), scaling="periodic"),
    "unturned": PrepareSettings(image_hw=(256, 256), flip=False),
}


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_box_lands_on_its_lesion(name, side):
    """A lesion's box misses the lesion in the prepared picture, or in its manifest columns."""
    spot = (100, 250, 160, 330) if side == "L" else (300, 250, 360, 330)
    made = prepare_image(image_with(spot, side=side), settings=SETTINGS[name])
    assert made.flipped == (side == "R" and name != "unturned")
    left, top, right, bottom = made.box
    row = {
        **dict(zip(("box_left", "box_top", "box_right", "box_bottom"), map(float, made.box), strict=True)),
        "scale_x": made.scale[0],
        "scale_y": made.scale[1],
        "flipped": float(made.flipped),
        "pad_left": float(made.offset[0]),
        "pad_top": float(made.offset[1]),
    }
    placement = placement_of(row)
    assert placement == made.placement
    assert placement.size_wh == made.pixels.shape[1::-1]
    rows, cols = np.nonzero(made.framed() > 200)
    found = (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(box_to_prepared(spot, placement), found, atol=1.0)
    np.testing.assert_allclose(box_to_original(box_to_prepared(spot, placement), placement), spot, atol=1e-9)
    assert left <= spot[0] < right
    assert top <= spot[1] < bottom


placements = st.builds(
    lambda corner, size, scale, offset, flipped: Placement(
        box=(*corner, corner[0] + size[0], corner[1] + size[1]), scale=scale, offset=offset, flipped=flipped
    ),
    st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.tuples(st.floats(0.01, 4), st.floats(0.01, 4)),
    st.tuples(st.integers(0, 500), st.integers(0, 500)),
    st.booleans(),
)
numbers = st.floats(-5000, 5000)


@given(placement=placements, x=numbers, y=numbers, radius=st.floats(0.1, 500))
def test_there_and_back(placement, x, y, radius):
    """A point, box or circle that goes to the prepared frame and back is somewhere else."""
    back = points_to_original(points_to_prepared([(x, y)], placement), placement)
    np.testing.assert_allclose(back, [(x, y)], atol=1e-6)
    circle = circle_to_original(circle_to_prepared((x, y, radius), placement), placement)
    np.testing.assert_allclose(circle, (x, y, radius), atol=1e-6)
    box = (x, y, x + radius, y + 2 * radius)
    there = box_to_prepared(box, placement)
    assert there[0] < there[2]
    assert there[1] < there[3]
    np.testing.assert_allclose(box_to_original(there, placement), box, atol=1e-6)


def test_a_point_by_hand():
    """The centre of the first pixel, or a flip, is half a pixel off."""
    placement = Placement(box=(10, 20, 30, 60), scale=(0.5, 0.5), offset=(7, 3), flipped=False)
    np.testing.assert_allclose(points_to_prepared([(10.5, 20.5)], placement), [(7.0, 3.0)])
    turned = Placement(box=(10, 20, 30, 60), scale=(0.5, 0.5), offset=(7, 3), flipped=True)
    np.testing.assert_allclose(points_to_prepared([(10.5, 20.5)], turned), [(16.0, 3.0)])
    assert box_to_prepared((10, 20, 30, 60), turned) == (7.0, 3.0, 17.0, 23.0)


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("coarse", [1, 8])
def test_heat_lands_on_its_lesion(name, side, coarse):
    """The heat map of a lesion lies beside it on the original."""
    spot = (100, 250, 160, 330) if side == "L" else (300, 250, 360, 330)
    made = prepare_image(image_with(spot, side=side), settings=SETTINGS[name])
    height, width = made.frame_hw
    heat = (made.framed() > 200).astype(np.float32)
    heat = (
        heat.reshape(height // coarse, coarse, width // coarse, coarse).mean(axis=(1, 3))
        if not (height % coarse or width % coarse)
        else heat
    )
    whole = heat_to_original(heat, made.placement, frame_hw=made.frame_hw, original_hw=(600, 460))
    assert whole.shape == (600, 460)
    rows, cols = np.nonzero(whole > 0.5 * whole.max())
    centre = ((spot[0] + spot[2] - 1) / 2, (spot[1] + spot[3] - 1) / 2)
    weight = whole / whole.sum()
    y, x = np.mgrid[:600, :460]
    assert ((x * weight).sum(), (y * weight).sum()) == (
        pytest.approx(centre[0], abs=2.0),
        pytest.approx(centre[1], abs=2.0),
    )
    assert cols.min() == pytest.approx(spot[0], abs=2.5 * coarse)
    assert rows.max() == pytest.approx(spot[3], abs=2.5 * coarse)


def test_heat_outside_of_the_cut_is_zero():
    """Heat is spread over parts that the network never saw."""
    made = prepare_image(image_with((100, 250, 160, 330)), settings=SETTINGS["square"])
    whole = heat_to_original(np.ones((8, 8)), made.placement, frame_hw=(256, 256), original_hw=(600, 460))
    left, top, right, bottom = made.box
    assert (whole[top:bottom, left:right] == 1).all()
    assert whole.sum() == (right - left) * (bottom - top)
