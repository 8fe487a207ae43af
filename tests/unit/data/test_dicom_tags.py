"""Side, view, modifiers and kind of image, in all the places in which they are written."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from study.data.dicom import read_dicom
from tests.unit.data.dicom_files import SECRETS, dicom_dataset, write_dicom


def item(**values):
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return [made]


def view(*modifiers, code="399162004", meaning="Secret^Name"):
    """A view code sequence; modifiers are (code, meaning)."""
    made = item(CodeValue=code, CodingSchemeDesignator="SCT", CodeMeaning=meaning)
    made[0].ViewModifierCodeSequence = [
        item(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=text)[0] for value, text in modifiers
    ]
    return made


@pytest.fixture
def tags(tmp_path):
    """The tags of a file with the given attributes."""

    def read(**changes):
        pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
        return read_dicom(write_dicom(tmp_path / "x.dcm", dicom_dataset(pixels, **changes))).tags

    return read


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"FrameLaterality": "R"}, "R"),
        ({"SharedFunctionalGroupsSequence": item(FrameAnatomySequence=item(FrameLaterality="L"))}, "L"),
        ({"ViewPosition": "RMLO"}, "R"),
        ({"ViewPosition": "CC", "SeriesDescription": "L CC"}, "L"),
        ({"ImageLaterality": "L", "SeriesDescription": "R CC"}, "L"),
        ({"ImageLaterality": "", "Laterality": "R"}, "R"),
        ({"ImageLaterality": "U", "Laterality": "L"}, "L"),
        ({}, None),
    ],
)
def test_laterality_fallbacks(tags, changes, expected):
    """The side is missed in one of its places, or a weaker place wins."""
    assert tags(**changes).laterality == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ViewPosition": "LMLO"}, "MLO"),
        ({"ViewPosition": "XCCL"}, "other"),
        ({"ViewPosition": "", "ViewCodeSequence": view(code="R-10226")}, "MLO"),
        ({"ViewPosition": "CC", "ViewCodeSequence": view(code="R-10226")}, "CC"),
        ({"SeriesDescription": "R MLO"}, "MLO"),
    ],
)
def test_view_fallbacks(tags, changes, expected):
    """The view is missed in one of its places, or a weaker place wins."""
    assert tags(**changes).view == expected


@pytest.mark.parametrize(
    ("changes", "spot_mag", "displaced", "implant"),
    [
        ({"ViewCodeSequence": view()}, False, False, None),
        ({"ViewCodeSequence": view(("399163009", "x"))}, True, False, None),
        ({"ViewCodeSequence": view(("R-102D6", "x"))}, True, False, None),
        ({"ViewCodeSequence": view(("R-102D7", "x"))}, True, False, None),
        ({"ViewCodeSequence": view(("99", "Spot Compression"))}, True, False, None),
        ({"ViewCodeSequence": view(("399209000", "x"))}, False, True, True),
        ({"ViewCodeSequence": view(("R-102D5", "x"), ("R-102D6", "x"))}, True, True, True),
        ({"ViewCodeSequence": view(("R-102C2", "Tangential"))}, False, False, None),
        ({"EstimatedRadiographicMagnificationFactor": "1.8"}, True, False, None),
        ({"EstimatedRadiographicMagnificationFactor": "1.07"}, False, False, None),
        ({"BreastImplantPresent": "YES"}, False, False, True),
        ({"BreastImplantPresent": "NO"}, False, False, False),
    ],
)
def test_modifiers(tags, changes, spot_mag, displaced, implant):
    """A magnified, spot or displaced view passes for a full one, or a full one for such."""
    found = tags(**changes)
    assert (found.spot_mag, found.displaced, found.implant) == (spot_mag, displaced, implant)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"SeriesDescription": "L CC C-View"}, "cview"),
        ({"SeriesDescription": "LCC CVIEW"}, "cview"),
        ({"SeriesDescription": "R MLO Intelligent 2D"}, "cview"),
        ({"SeriesDescription": "R MLO S-View"}, "cview"),
        ({"SeriesDescription": "L CC V-Preview"}, "cview"),
        ({"SeriesDescription": "L MLO Synthetic"}, "cview"),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]}, "cview"),
        ({"SeriesDescription": "L CC view"}, "FFDM"),
        ({"SeriesDescription": "L CC preview"}, "FFDM"),
        ({"ConversionType": "DF"}, "film"),
    ],
)
def test_kinds(tags, changes, kind):
    """A synthetic view passes for an acquired one, or a plain description for a synthetic view's."""
    assert tags(**changes).image_kind == kind


def test_no_text_of_the_file_is_kept(tags):
    """A modifier's words, or a name in the description, are among the tags."""
    text = repr(tags(ViewCodeSequence=view(("1", "Spot Secret^Name")), SeriesDescription="Secret^Name R CC"))
    assert not any(secret in text for secret in SECRETS)
