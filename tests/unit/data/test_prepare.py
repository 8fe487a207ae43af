import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from study.data.breast import find_breast
from study.data.dicom import DicomImage, DicomTags, read_dicom, read_image
from study.data.prepare import PrepareSettings, prepare_image
from study.errors import InputError

REAL = os.environ.get("STUDY_REAL_DATA", "")
needs_real = pytest.mark.skipif(not REAL, reason="STUDY_REAL_DATA is not set")
SETTINGS = PrepareSettings(image_hw=(128, 128))


def image_of(pixels: np.ndarray, *, bits: int = 12) -> DicomImage:
    rows, cols = pixels.shape
    tags = DicomTags(rows=rows, cols=cols, bits_stored=bits, photometric="MONOCHROME2")
    return DicomImage(pixels=pixels.astype(np.uint16), tags=tags)


def breast(rows: int = 400, cols: int = 300, *, side: str = "L", level: int = 2000) -> np.ndarray:
    """A half ellipse at one edge with a bright spot in it, and a label in the far corner."""
    y, x = np.mgrid[:rows, :cols].astype(float)
    inside = (x / (0.6 * cols)) ** 2 + ((y - 0.5 * rows) / (0.4 * rows)) ** 2 < 1
    pixels = np.where(inside, level + (x + y), 0)
    pixels[(x - 90) ** 2 + (y - 160) ** 2 < 64] = level + 1500
    pixels[10:30, cols - 60 : cols - 10] = 4095
    return pixels[:, ::-1] if side == "R" else pixels


def test_the_breast_alone_is_left():
    """The label is in the picture, or the box is not the breast's."""
    prepared = prepare_image(image_of(breast()), settings=SETTINGS)
    left, top, right, bottom = prepared.box
    assert (left, prepared.is_cropped, prepared.flipped) == (0, True, False)
    assert abs(top - 40) <= 10
    assert abs(bottom - 360) <= 10
    assert abs(right - 180) <= 10
    whole = prepare_image(image_of(breast()), settings=PrepareSettings(image_hw=(128, 128), crop="none"))
    assert whole.framed()[3:9, 100:108].max() == 255  # the label
    assert whole.box == (0, 0, 300, 400)


def test_a_label_inside_the_box_is_black():
    """A label that lies within the bounding box, but outside of the breast, is kept."""
    pixels = breast()
    pixels[10:30, -60:-10] = 0
    pixels[55:75, 140:170] = 4095
    prepared = prepare_image(image_of(pixels), settings=SETTINGS)
    assert prepared.box[2] > 170
    x, y = prepared.map_point(155, 65)
    assert prepared.framed()[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].max() == 0


def test_margin_widens_the_box():
    """The margin does not widen the box on each free side, or leaves the frame."""
    narrow = prepare_image(image_of(breast()), settings=PrepareSettings(image_hw=(128, 128), margin=0)).box
    wide = prepare_image(image_of(breast()), settings=PrepareSettings(image_hw=(128, 128), margin=0.05)).box
    extra = 0.05 * (narrow[3] - narrow[1])
    assert wide[0] == narrow[0] == 0
    for index, sign in ((1, -1), (2, 1), (3, 1)):
        assert sign * (wide[index] - narrow[index]) == pytest.approx(extra, abs=1.01)


def test_aspect_is_kept_and_padding_symmetric():
    """A prepared breast is stretched, or not in the middle."""
    prepared = prepare_image(image_of(breast()), settings=SETTINGS)
    width, height = prepared.box[2] - prepared.box[0], prepared.box[3] - prepared.box[1]
    assert prepared.framed().shape == (128, 128)
    assert prepared.framed().dtype == np.uint8
    assert prepared.scale[0] == pytest.approx(prepared.scale[1], rel=0.01)
    drawn = round(width * 128 / height)
    assert prepared.offset == ((128 - drawn) // 2, 0)
    assert prepared.framed()[:, : prepared.offset[0]].max() == 0
    assert prepared.framed()[64, prepared.offset[0]] > 0


@pytest.mark.parametrize("laterality", ["L", "R", None])
def test_all_chest_walls_are_left(laterality):
    """A breast at the right edge stays there, or a wrong header turns a picture around."""
    left = prepare_image(image_of(breast()), laterality=laterality, settings=SETTINGS)
    right = prepare_image(image_of(breast(side="R")), laterality=laterality, settings=SETTINGS)
    assert (left.flipped, right.flipped) == (False, True)
    assert np.abs(left.framed().astype(int) - right.framed()).mean() < 1
    unturned = prepare_image(image_of(breast(side="R")), settings=PrepareSettings(image_hw=(128, 128), flip=False))
    np.testing.assert_array_equal(unturned.framed()[:, ::-1], right.framed())


@pytest.mark.parametrize(("laterality", "flipped"), [("L", False), ("R", True), (None, False)])
def test_laterality_decides_where_the_picture_does_not(laterality, flipped):
    """A breast that fills the frame is not turned by its laterality."""
    rng = np.random.default_rng(0)
    values = rng.integers(1500, 1900, (300, 300))
    values[:20] = 0
    full = image_of(values)
    assert find_breast(full.pixels_hw, margin=0).side is None
    assert prepare_image(full, laterality=laterality, settings=SETTINGS).flipped is flipped


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("crop", ["breast", "none"])
def test_points_are_mapped(side, crop):
    """A mapped point misses the spot by a pixel and more."""
    pixels = breast(side=side)
    prepared = prepare_image(image_of(pixels), settings=PrepareSettings(image_hw=(256, 256), crop=crop))
    spot = (90, 160) if side == "L" else (299 - 90, 160)
    x, y = prepared.map_point(*spot)
    bright = prepared.framed().astype(int)
    bright[: int(y) - 15] = 0  # away from the label
    rows, cols = np.nonzero(bright > 0.95 * bright.max())
    assert (cols.mean(), rows.mean()) == (pytest.approx(x, abs=0.8), pytest.approx(y, abs=0.8))


def test_grey_scale_is_background_to_bright_tissue():
    """Background is not 0, or the 99.9th percentile of the breast is not 255."""
    prepared = prepare_image(image_of(breast()), settings=SETTINGS)
    inside = prepared.framed()[prepared.framed() > 0]
    assert prepared.framed()[0, -1] == 0
    assert prepared.framed().max() == 255
    assert 0.5 < np.median(inside) / 255 < 0.75  # about 2250 of 3500


@pytest.mark.parametrize(("factor", "bits"), [(1, 16), (4, 14), (16, 16)])
def test_bit_depth_does_not_matter(factor, bits):
    """The same breast in another depth gives another picture."""
    one = prepare_image(image_of(breast()), settings=SETTINGS)
    other = prepare_image(image_of(breast() * factor, bits=bits), settings=SETTINGS)
    assert np.abs(one.framed().astype(int) - other.framed()).max() <= (0 if factor == 1 else 1)


def test_grey_background_becomes_black():
    """A film's grey background counts as tissue, or stays grey."""
    pixels = np.maximum(breast(), 300)
    prepared = prepare_image(image_of(pixels), settings=SETTINGS)
    assert prepared.is_cropped
    assert prepared.framed()[prepared.framed() > 0].size < 0.6 * 128 * 128


def test_white_frame_does_not_defeat_the_crop():
    """A white border of the scan joins breast and label into one piece."""
    pixels = breast()
    pixels[:6], pixels[-6:], pixels[:, -6:] = 4095, 4095, 4095
    prepared = prepare_image(image_of(pixels), settings=SETTINGS)
    assert prepared.box[2] < 200
    assert prepared.box[1] > 20


@pytest.mark.parametrize("kind", ["noise", "speck", "thin"])
def test_without_a_breast_the_frame_is_kept(kind):
    """A frame without a large component raises, or is cut to a speck."""
    pixels = np.zeros((300, 300))
    if kind == "noise":
        pixels = np.random.default_rng(1).integers(0, 4096, (300, 300)) * (np.indices((300, 300)).sum(0) % 9 == 0)
    if kind == "speck":
        pixels[100:130, 100:130] = 4000
    if kind == "thin":
        pixels[::40] = 4000
    prepared = prepare_image(image_of(pixels), settings=SETTINGS)
    assert prepared.box == (0, 0, 300, 300)
    assert prepared.is_cropped is False
    assert prepared.flipped is False
    assert prepared.framed().max() > 0
    assert prepare_image(image_of(pixels), laterality="R", settings=SETTINGS).flipped is True


def test_holes_are_filled():
    """Dark fat inside the breast is blackened like the outside."""
    pixels = breast()
    pixels[190:210, 50:70] = 60  # under the threshold
    prepared = prepare_image(image_of(pixels), settings=SETTINGS)
    x, y = prepared.map_point(60, 200)
    assert prepared.framed()[round(y), round(x)] > 0


def test_preparing_changes_nothing():
    """The function writes into its argument, or gives another picture the second time."""
    image = image_of(breast())
    before = image.pixels_hw.copy()
    first = prepare_image(image, settings=SETTINGS)
    second = prepare_image(image, settings=SETTINGS)
    np.testing.assert_array_equal(image.pixels_hw, before)
    np.testing.assert_array_equal(first.framed(), second.framed())


def test_small_pictures_grow():
    """A picture smaller than the result is not enlarged."""
    small = cv2.resize(breast().astype(np.uint16), (75, 100), interpolation=cv2.INTER_AREA)
    prepared = prepare_image(image_of(small), settings=PrepareSettings(image_hw=(256, 256)))
    assert prepared.framed().shape == (256, 256)
    assert prepared.scale[0] > 1


@pytest.mark.parametrize("options", [{"image_hw": (8, 64)}, {"crop": "box"}, {"margin": -0.1}, {"margin": 0.6}])
def test_bad_settings_are_refused(options):
    """Settings that make no sense pass construction."""
    with pytest.raises(InputError):
        PrepareSettings(**{"image_hw": (64, 64)} | options)


def test_bad_laterality_is_refused():
    """An unknown laterality is taken for left."""
    with pytest.raises(InputError, match="'LEFT'"):
        prepare_image(image_of(breast()), laterality="LEFT", settings=SETTINGS)


@pytest.mark.data
@needs_real
class TestRealFiles:
    """Real films and digital images are cropped as they should be."""

    def test_lesions_stay_inside(self):
        """Over 1 % of the lesion centres, or of the sides, are lost on the 214 films."""
        root = Path(REAL, "mias")
        films = pd.read_csv(root / "labels.csv")
        lesions = pd.read_csv(root / "lesions.csv").dropna(subset=["x", "y"])
        inside, wrong_side, areas = [], 0, []
        for film in films.itertuples():
            prepared = prepare_image(read_image(root / film.path), laterality=film.laterality, settings=SETTINGS)
            wrong_side += prepared.flipped != (film.laterality == "R")
            left, top, right, bottom = prepared.box
            areas.append((right - left) * (bottom - top) / 512**2)
            for lesion in lesions[lesions["image_id"] == film.image_id].itertuples():
                x, y = prepared.map_point(lesion.x, lesion.y)
                inside.append(left <= lesion.x < right and top <= lesion.y < bottom)
                assert not inside[-1] or (0 <= x < 128 and 0 <= y < 128)
        assert len(inside) > 80
        assert np.mean(inside) >= 0.99
        assert wrong_side <= 2
        assert np.median(areas) < 0.6

    def test_encodings_agree(self):
        """One breast in five encodings gives different prepared pictures."""
        files = sorted(Path(REAL, "dicom").glob("mg_*.dcm"))
        pictures = {prepare_image(read_dicom(path), settings=SETTINGS).framed().tobytes() for path in files}
        assert len(files) == 5
        assert len(pictures) == 1

    def test_film_with_grey_background(self):
        """The large film's labels and bright borders are taken for breast."""
        region = find_breast(read_dicom(Path(REAL, "dicom", "MG1_J2KI.dcm")).pixels_hw, margin=0.02)
        assert region.side == "L"
        assert region.box[2] < 2400

    def test_digital_pictures(self):
        """A digital picture's chest wall is not put left, or its crop is the whole frame."""
        root = Path(REAL, "ffdm")
        table = pd.read_csv(root / "labels.csv")
        for path in table["path"]:
            picture = read_image(root / path)
            prepared = prepare_image(picture, settings=SETTINGS)
            assert prepared.is_cropped
            columns = (prepared.framed() > 0).any(axis=0)
            tissue = (prepared.framed() > 0).sum(axis=0)[columns]
            assert tissue[: len(tissue) // 3].sum() > tissue[-(len(tissue) // 3) :].sum()
