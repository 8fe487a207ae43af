"""The policies of the other papers, other shapes and depths, and contact sheets."""

import cv2
import numpy as np
import pytest

from study.data.augment import MODES, POLICIES, contact_sheet, make_augment
from study.data.augment_policies import Kind, library
from study.data.augment_transforms import half_turn, level_transforms, quick_transforms
from study.errors import InputError

HW = (64, 40)
DRAWS = 1500


def picture(hw=HW, *, channels=1, bits=8):
    """A smooth picture with all brightnesses; other channels differ."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    grey = np.clip((x * 5 + y * 2) % 256, 10, 245).astype(np.uint8)
    grey = cv2.GaussianBlur(grey, (0, 0), 2)
    pixels = grey if channels == 1 else np.dstack([grey, 255 - grey, grey // 2])
    return pixels if bits == 8 else pixels.astype(np.uint16) * 257


@pytest.fixture(scope="module", params=["multitask", "fundus"])
def applied(request):
    """A policy's name, and the transforms that each draw got with their parameters."""
    pipeline = library().Compose(POLICIES[request.param](Kind(image_hw=HW)), seed=5, save_applied_params=True)
    return request.param, [list(pipeline(image=picture())["applied_transforms"]) for _ in range(DRAWS)]


def test_each_transform_has_probability_one_half(applied):
    """A transform of papers multitask or imbalance is rarer or more frequent than printed, or missing."""
    policy, draws = applied
    wanted = {
        "multitask": {"Affine", "VerticalFlip"},
        "fundus": {"RandomGamma", "SigmoidContrast", "HorizontalFlip", "VerticalFlip"},
    }
    assert {name for one in draws for name, _ in one} == wanted[policy]
    for name in wanted[policy]:
        times = 2 if name == "Affine" else 1  # translation and zoom
        share = np.mean([sum(found == name for found, _ in one) for one in draws]) / times
        assert share == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(DRAWS))


def test_ranges(applied):
    """Drawn parameters leave the stated ranges, or do not fill them; a mammogram is sheared or stretched."""
    policy, draws = applied
    params = [(name, values) for one in draws for name, values in one]
    if policy == "fundus":
        gammas = [values["gamma"] for name, values in params if name == "RandomGamma"]
        gains = [values["gain"] for name, values in params if name == "SigmoidContrast"]
        assert (min(gammas), max(gammas)) == (pytest.approx(0.5, abs=0.05), pytest.approx(1.5, abs=0.05))
        assert (min(gains), max(gains)) == (pytest.approx(5, abs=0.2), pytest.approx(10, abs=0.2))
        return
    affine = [values for name, values in params if name == "Affine"]
    zooms = [values["scale"] for values in affine if values["scale"]["x"] != 1.0]
    assert all(zoom["x"] == zoom["y"] for zoom in zooms)
    assert min(zoom["x"] for zoom in zooms) == pytest.approx(0.8, abs=0.02)
    assert max(zoom["x"] for zoom in zooms) == pytest.approx(1.2, abs=0.02)
    assert all(values["rotate"] == 0.0 for values in affine)
    made = [one for one in POLICIES["multitask"](Kind(image_hw=HW)) if type(one).__name__ == "Affine"]
    assert all(set(one.shear.values()) == {(0.0, 0.0)} for one in made)


def test_multitask_translates_by_a_tenth():
    """A mammogram is moved by more than a tenth of its frame, or not on both axes."""
    move, zoom, _ = POLICIES["multitask"](Kind(image_hw=HW))
    assert move.translate_percent == {"x": (-0.1, 0.1), "y": (-0.1, 0.1)}
    assert (move.border_mode, move.fill, zoom.border_mode, zoom.fill) == (0, 0, 0, 0)
    pipeline = library().Compose(
        [type(move)(translate_percent=move.translate_percent, p=1.0, border_mode=0, fill=0)], seed=1
    )
    bright = np.full((100, 100), 200, dtype=np.uint8)
    gone = [pipeline(image=bright)["image"] < 100 for _ in range(200)]
    assert 9 <= max(out.all(axis=0).sum() for out in gone) <= 10
    assert 9 <= max(out.all(axis=1).sum() for out in gone) <= 10


def test_multitask_never_flips_sideways(applied):
    """The policy of paper multitask turns the chest wall to the other side."""
    policy, draws = applied
    assert policy != "multitask" or not any(name == "HorizontalFlip" for one in draws for name, _ in one)


def test_sigmoid_contrast_is_the_formula():
    """The contrast of fundus pictures is not 1 / (1 + exp(gain (0.5 - x)))."""
    contrast = level_transforms(library())["SigmoidContrast"](p=1.0)
    for bits, top in ((8, 255), (16, 65535)):
        image = picture(bits=bits)
        expected = top / (1 + np.exp(7.0 * (0.5 - image / top)))
        np.testing.assert_allclose(contrast.apply(image, gain=7.0), expected, atol=0.51)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("hw", [(64, 40), (40, 64), (48, 48)])
@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (1, 16), (3, 16)])
def test_all_shapes_and_depths(policy, hw, channels, bits, mode):
    """A policy changes shape or type, or its argument, or depends on more than seed and draw."""
    augment, image = (
        make_augment(policy, image_hw=hw, channels=channels, bits=bits, mode=mode),
        picture(hw, channels=channels, bits=bits),
    )
    before = image.copy()
    image.setflags(write=False)
    outs = [augment(image, seed=3, draw=draw) for draw in range(20)]
    assert {(out.shape, out.dtype) for out in outs} == {(image.shape, image.dtype)}
    assert all(out.flags.c_contiguous for out in outs)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(augment(image, seed=3, draw=7), outs[7])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["mammogram", "multitask", "fundus"])
def test_sixteen_bits_are_treated_like_eight(policy, mode):
    """A 16-bit picture is augmented otherwise than the same picture in 8 bits."""
    eight, sixteen = (make_augment(policy, image_hw=(64, 64), bits=bits, mode=mode) for bits in (8, 16))
    image = picture((64, 64))
    changes = []
    for draw in range(120):
        low = eight(image, seed=0, draw=draw).astype(float)
        high = sixteen(image.astype(np.uint16) * 257, seed=0, draw=draw) / 257
        changes.append(np.abs(low - high).mean())
    assert np.median(changes) < 1.5
    assert np.mean(np.array(changes) < 4) > 0.9  # rounding grows with every step that follows


@pytest.mark.parametrize("hw", [(64, 40), (48, 48)])
def test_turns_keep_the_frame(hw):
    """A frame that is not square is turned by 90 degrees, or square ones only by 180."""
    names = [type(one).__name__ for one in POLICIES["mammogram"](Kind(image_hw=hw))]
    assert ("RandomRotate90" in names) == (hw[0] == hw[1])
    assert ("HalfTurn" in names) == (hw[0] != hw[1])
    image = picture(hw)
    np.testing.assert_array_equal(half_turn(library())(p=1.0).apply(image), image[::-1, ::-1])


def test_dropout_drops_whole_pixels_of_colour():
    """Pixel dropout blackens single channels of a colour picture."""
    dropout = quick_transforms(library())["PixelDropout"](p=1.0)
    out = library().Compose([dropout], seed=0)(image=np.full((64, 64, 3), 9, dtype=np.uint8))["image"]
    dropped = out == 0
    assert dropped.any()
    assert (dropped.all(axis=2) == dropped.any(axis=2)).all()


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (1, 16)])
def test_contact_sheet(channels, bits):
    """The sheet lacks an image or the original beside its draws, or differs from run to run."""
    images = [picture((320, 200), channels=channels, bits=bits), picture((100, 160), channels=channels, bits=bits)]
    sheet = contact_sheet("mammogram", images, 4)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (332, 1316, *images[0].shape[2:])
    np.testing.assert_array_equal(sheet, contact_sheet("mammogram", images, 4))
    original = cv2.resize(images[0], (100, 160), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(sheet[4:164, 4:104], original if bits == 8 else original >> 8)
    none = contact_sheet("none", images, 4)
    np.testing.assert_array_equal(none[4:164, 4:104], none[4:164, 168:268])
    assert not np.array_equal(sheet[4:164, 4:104], sheet[4:164, 168:268])


def test_contact_sheet_needs_images():
    """A sheet of nothing raises something that nobody understands."""
    with pytest.raises(InputError, match="no images"):
        contact_sheet("mammogram", [], 0)


@pytest.mark.parametrize("options", [{"channels": 2}, {"bits": 12}])
def test_other_channels_and_depths_are_refused(options):
    """Images that no transform was made for pass."""
    with pytest.raises(InputError, match="1 or 3 channels of 8 or 16 bits"):
        make_augment("none", image_hw=(8, 8), **options)
