"""The three scalings, both depths, given masks, colours and reduced decoding."""

import cv2
import numpy as np
import pytest

from study.data.breast import find_breast
from study.data.dicom import DicomImage, DicomTags, ReadOptions
from study.data.greyscale import PERIODIC_MEAN, periodic_background
from study.data.prepare import PrepareSettings, prepare_image
from study.data.resize import resize_grey, shrink_grey
from study.errors import InputError


def image_of(pixels, *, bits=12, reduced_by=1, hw=None):
    rows, cols = hw or pixels.shape[:2]
    tags = DicomTags(rows=rows, cols=cols, bits_stored=bits, photometric="MONOCHROME2")
    return DicomImage(pixels=pixels.astype(np.uint16), tags=tags, reduced_by=reduced_by)


def breast(rows=400, cols=300, *, side="L", low=800, share=0.6):
    """A half ellipse with a gradient, a bright spot and a label."""
    y, x = np.mgrid[:rows, :cols].astype(float)
    inside = (x / (share * cols)) ** 2 + ((y - 0.5 * rows) / (0.4 * rows)) ** 2 < 1
    pixels = np.where(inside, low + 3 * (x + y), 0)
    pixels[(x - 60) ** 2 + (y - 160) ** 2 < 36] = 4000
    pixels[10:30, cols - 60 : cols - 10] = 4095
    return pixels[:, ::-1] if side == "R" else pixels


class TestMultitask:
    """Full height, width padded to a multiple, largest value white."""

    @pytest.mark.parametrize("side", ["L", "R"])
    @pytest.mark.parametrize("multiple", [64, 16, 1])
    def test_frame(self, side, multiple):
        """The height is not the one asked for, the width no multiple, or the breast not at the left edge."""
        settings = PrepareSettings(image_hw=(256, 256), scaling="multitask", width_multiple=multiple)
        made = prepare_image(image_of(breast(side=side)), settings=settings)
        height, width = made.pixels.shape
        assert height == 256
        assert made.frame_hw == (256, -(-width // multiple) * multiple)
        assert made.offset == (0, 0)
        assert (made.framed()[:, width:] == 0).all()
        assert made.framed()[128, 0] > 0

    def test_the_widest_frame(self):
        """A very wide box makes a frame beyond the width that was asked for, or is stretched."""
        wide = np.zeros((200, 900))
        wide[40:160, 20:880] = 2000 + np.arange(860)
        made = prepare_image(image_of(wide), settings=PrepareSettings(image_hw=(256, 200), scaling="multitask"))
        assert made.frame_hw == (256, 256)
        assert made.pixels.shape[1] == 256
        assert made.scale[0] == pytest.approx(made.scale[1], rel=0.02)
        assert made.offset == (0, (256 - made.pixels.shape[0]) // 2)

    def test_window(self):
        """Black is not the background, or white not the brightest pixel of the breast."""
        image = image_of(breast())
        made = prepare_image(image, settings=PrepareSettings(image_hw=(320, 320), scaling="multitask"))
        assert (made.pixels == 255).sum() < 80  # the spot alone, not 0.1 %
        x, y = made.map_point(60, 160)
        assert made.pixels[round(y), round(x)] == 255
        x, y = made.map_point(100, 200)
        assert made.pixels[round(y), round(x)] == pytest.approx(255 * (800 + 3 * 300) / 4000, abs=4)


class TestPeriodic:
    """Zero to one inside of the mask; outside a constant that makes all means equal."""

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("crop", ["breast", "none"])
    def test_means_are_equal(self, bits, crop):
        """Pictures of thin and large, dark and bright breasts have different means."""
        settings = PrepareSettings(image_hw=(320, 240), scaling="periodic", bits=bits, crop=crop)
        images = [image_of(breast(share=share, low=low)) for share in (0.3, 0.6, 0.9) for low in (300, 1500)]
        made = [prepare_image(image, settings=settings) for image in images]
        top = 2**bits - 1
        for picture in made:
            assert picture.framed().mean() / top == pytest.approx(PERIODIC_MEAN, abs=0.005)
            assert picture.frame_hw == (320, 240)
        assert len({picture.background for picture in made}) > 3

    def test_inside_runs_from_zero_to_one(self):
        """The darkest or brightest pixel of the breast is not 0 or 1, or a label is left."""
        made = prepare_image(image_of(breast()), settings=PrepareSettings(image_hw=(320, 240), scaling="periodic"))
        inside = made.framed()[made.framed() != made.background]
        assert (inside.min(), inside.max()) == (0, 255)
        assert made.framed()[0, -1] == made.background

    def test_the_label_outside_is_blank(self):
        """With crop: none, a label outside of the mask stays in a mask-normalised picture."""
        settings = PrepareSettings(image_hw=(400, 300), scaling="periodic", crop="none")
        made = prepare_image(image_of(breast()), settings=settings)
        assert (made.framed()[5:35, 235:295] == made.background).all()

    @pytest.mark.parametrize(("level", "expected"), [(0, 255), (255, 0)])
    def test_where_no_constant_reaches_the_mean(self, level, expected):
        """A breast that nearly fills the frame gives a level that the depth cannot hold."""
        assert periodic_background(np.full(95, level, dtype=np.uint8), frame_pixels=100, bits=8) == expected
        assert periodic_background(np.full(100, level, dtype=np.uint8), frame_pixels=100, bits=8) == 0


class TestDepth:
    """Eight and sixteen bits are the same picture."""

    @pytest.mark.parametrize("scaling", ["ordinal", "multitask", "periodic"])
    def test_sixteen_bits_are_finer(self, scaling):
        """The 16-bit picture is another one, or holds no more than 8 bits."""
        eight, sixteen = (
            prepare_image(image_of(breast()), settings=PrepareSettings(image_hw=(256, 256), scaling=scaling, bits=bits))
            for bits in (8, 16)
        )
        assert (eight.pixels.dtype, sixteen.pixels.dtype) == (np.uint8, np.uint16)
        assert np.abs(sixteen.framed() / 257 - eight.framed()).max() <= 0.51
        assert len(np.unique(sixteen.pixels)) > 300
        assert (sixteen.offset, sixteen.box) == (eight.offset, eight.box)


@pytest.mark.parametrize("hw", [(512, 512), (1024, 1024), (1152, 832), (300, 417), (64, 200)])
@pytest.mark.parametrize("side", ["L", "R"])
def test_any_size(hw, side):
    """A frame of another size than asked for, padding that is not symmetric, or a stretched breast."""
    made = prepare_image(image_of(breast(side=side)), settings=PrepareSettings(image_hw=hw))
    assert made.framed().shape == made.frame_hw == hw
    left, top = made.offset
    spare = (hw[1] - made.pixels.shape[1], hw[0] - made.pixels.shape[0])
    assert min(spare) in (0, 1)
    assert abs(2 * left - spare[0]) <= 1
    assert abs(2 * top - spare[1]) <= 1
    assert made.scale[0] == pytest.approx(made.scale[1], rel=0.03)


class TestGivenMasks:
    """An external mask takes the place of the threshold."""

    def test_the_mask_decides(self):
        """The mask of another model is passed over, or has to have the size of the image."""
        mask = np.zeros((40, 30), dtype=bool)
        mask[10:20, 15:25] = True
        made = prepare_image(
            image_of(breast()), settings=PrepareSettings(image_hw=(128, 128), margin=0.0), mask_hw=mask
        )
        assert made.box == (150, 100, 250, 200)
        assert made.is_cropped
        assert made.flipped  # the mask lies right of the middle

    def test_outside_of_the_mask_is_black(self):
        """What the mask leaves out is kept."""
        mask = np.ones((400, 300), dtype=bool)
        mask[150:250, 50:150] = False
        made = prepare_image(image_of(breast()), settings=PrepareSettings(image_hw=(400, 400)), mask_hw=mask)
        x, y = made.map_point(100, 200)
        assert made.framed()[round(y), round(x)] == 0

    @pytest.mark.parametrize("mask", [np.zeros((40, 30), dtype=bool), np.eye(400, 300, k=-399, dtype=bool)])
    def test_a_failed_segmentation_is_passed_over(self, mask):
        """An empty mask, or one of a speck, gives an empty picture."""
        region = find_breast(image_of(breast()).pixels, margin=0.02, mask_hw=mask)
        expected = find_breast(image_of(breast()).pixels, margin=0.02)
        assert region.box == expected.box


class TestColour:
    """Colour pictures keep their colours and are fitted whole."""

    SETTINGS = PrepareSettings(image_hw=(96, 128), colour="rgb", crop="none")

    def picture(self, *, bits=8):
        y, x = np.mgrid[:150, :100]
        return image_of(np.dstack([x, y, 255 - x]) * (257 if bits == 16 else 1), bits=bits)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_colours_stay(self, bits):
        """Colours are windowed or exchanged, or a bright rim is cut off."""
        settings = PrepareSettings(image_hw=(96, 128), colour="rgb", crop="none", bits=bits)
        made = prepare_image(self.picture(bits=bits), settings=settings)
        assert made.framed().shape == (96, 128, 3)
        assert made.pixels.shape == (96, 64, 3)
        factor = 257 if bits == 16 else 1
        x, y = made.map_point(80, 40)
        np.testing.assert_allclose(made.framed()[round(y), round(x)] / factor, (80, 40, 175), atol=2)
        assert made.is_cropped is False

    def test_a_named_side_turns(self):
        """A right eye stays where a left one's side is asked for."""
        right = prepare_image(self.picture(), laterality="R", settings=self.SETTINGS)
        plain = prepare_image(self.picture(), settings=self.SETTINGS)
        np.testing.assert_array_equal(right.pixels, plain.pixels[:, ::-1])

    def test_other_channels_are_refused(self):
        """A grey picture passes where colour is expected, or the other way round."""
        with pytest.raises(InputError, match="colour: grey"):
            prepare_image(self.picture(), settings=PrepareSettings(image_hw=(96, 128)))
        with pytest.raises(InputError, match="colour: rgb"):
            prepare_image(image_of(breast()), settings=self.SETTINGS)


def test_reduced_decoding_keeps_the_original_boxes():
    """Box, scale and points of an image that was decoded at half its size are those of the half."""
    pixels = breast(401, 301)
    half = cv2.resize(pixels.astype(np.uint16), (151, 201), interpolation=cv2.INTER_AREA)
    settings = PrepareSettings(image_hw=(96, 96))
    full = prepare_image(image_of(pixels), settings=settings)
    made = prepare_image(image_of(half, reduced_by=2, hw=(401, 301)), settings=settings)
    np.testing.assert_allclose(made.box, full.box, atol=6)
    assert made.box[3] <= 401
    assert made.scale == pytest.approx(full.scale, rel=0.05)
    assert made.map_point(60, 160) == pytest.approx(full.map_point(60, 160), abs=1.5)


def test_settings_name_the_reader_s_options():
    """The reader is asked for something else than the settings say."""
    assert PrepareSettings(image_hw=(64, 64)).read_options == ReadOptions()
    settings = PrepareSettings(image_hw=(64, 80), lut="voi", colour="rgb", crop="none", reduced=True)
    assert settings.read_options == ReadOptions(lut="voi", colour="rgb", reduce_to=80)


@pytest.mark.parametrize(
    "options",
    [
        {"scaling": "other"},
        {"bits": 12},
        {"colour": "cmyk"},
        {"lut": "modality"},
        {"width_multiple": 0},
        {"image_hw": (64, 8)},
        {"colour": "rgb"},
        {"colour": "rgb", "crop": "none", "scaling": "periodic"},
    ],
)
def test_senseless_settings_are_refused(options):
    """Settings that no picture can follow pass."""
    with pytest.raises(InputError):
        PrepareSettings(**{"image_hw": (64, 64)} | options)


class TestResize:
    """Area means are OpenCV's, but for the rounding of single pixels."""

    @pytest.mark.parametrize("size_wh", [(64, 100), (150, 200), (299, 399), (1, 1), (300, 400), (7, 395)])
    @pytest.mark.parametrize("top", [255, 4095, 65535])
    def test_area_means(self, size_wh, top):
        """A mean over an area is taken over other pixels, or over parts with the wrong weights."""
        pixels = np.random.default_rng(0).integers(0, top + 1, (400, 300)).astype(np.uint16)
        exact = cv2.resize(pixels.astype(np.float64), size_wh, interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(resize_grey(pixels, size_wh), exact, atol=0.5 + 1e-5 * top)

    def test_a_constant_stays(self):
        """Weights do not add up to one."""
        for size in (1, 63, 64, 65, 129):
            flat = np.full((201, 333), 65535, dtype=np.uint16)
            assert (resize_grey(flat, (size, size)) == 65535).all()

    @pytest.mark.parametrize("factor", [1, 2, 5, 8])
    @pytest.mark.parametrize("top", [4095, 65535])
    def test_shrinking(self, factor, top):
        """The small copy is of other blocks, or its sums overflow."""
        pixels = np.random.default_rng(0).integers(0, top + 1, (403, 301)).astype(np.uint16)
        rows, cols = 403 // factor, 301 // factor
        blocks = pixels[: rows * factor, : cols * factor].reshape(rows, factor, cols, factor)
        np.testing.assert_allclose(shrink_grey(pixels, factor), blocks.mean(axis=(1, 3)), rtol=1e-5)
