"""How pictures are prepared, as the study file says it: kinds of values, and combinations that make no sense."""

import pytest

from study.config import DataConfig
from study.config.pixels import pixel_faults
from study.config.view import View

SOURCE = {"kind": "table", "name": "listed", "table": "list.csv"}


def _data(**changes):
    return DataConfig.model_validate({"prepared": "x", "sources": [SOURCE]} | changes)


def _faults(**changes):
    return {fault.path for fault in pixel_faults(View({"data": _data(**changes).model_dump(mode="json")}))}


@pytest.mark.parametrize(("given", "expected"), [(512, (512, 512)), ([1536, 768], (1536, 768))])
def test_image_size_is_a_square_or_a_frame(given, expected):
    """One number is the side of a square, two are height and width in this order; both survive a round trip."""
    data = _data(image_size=given)
    assert data.image_hw == expected
    again = DataConfig.model_validate_json(data.model_dump_json())
    assert (again, again.model_dump(mode="json")["image_size"]) == (data, given)


@pytest.mark.parametrize("given", [31, 8193, True, "512", 512.0, None, [512], [512, 16], [512, 512, 512], [512.0, 512]])
def test_other_image_sizes_are_refused(given):
    """Anything else is refused with what was expected, not rounded or taken for something."""
    with pytest.raises(ValueError, match=r"32 to 8192, or two: \[height, width\]"):
        _data(image_size=given)


def test_defaults_are_those_of_the_first_release():
    """A study file that says nothing of pictures gets square, 8-bit, grey, cropped and flipped ones."""
    data = _data()
    assert (data.image_hw, data.scaling, data.bits, data.colour) == ((512, 512), "ordinal", 8, "grey")
    assert (data.lut, data.crop, data.flip, data.masks, data.reduced) == ("none", "breast", True, None, False)
    assert data.encoding == "auto"


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({}, set()),
        ({"scaling": "multitask", "width_multiple": 32}, set()),
        ({"scaling": "periodic", "masks": "m"}, set()),
        ({"colour": "rgb", "crop": "none"}, set()),
        ({"width_multiple": 32}, {"data.width_multiple"}),
        ({"colour": "rgb"}, {"data.crop"}),
        ({"colour": "rgb", "crop": "none", "scaling": "periodic", "masks": "m"}, {"data.scaling", "data.masks"}),
        ({"crop": "none", "masks": "m"}, {"data.masks"}),
    ],
)
def test_settings_without_effect_are_faults(changes, paths):
    """A setting that would be ignored, or that colour pictures cannot have, is told before hours of preparing."""
    assert _faults(**changes) == paths


def test_faulty_values_hide_no_other_fault():
    """Where one value is faulty itself, the rules about the others still speak."""
    tree = {"data": {"colour": "rgb", "crop": "breast", "scaling": "x"}}
    assert {fault.path for fault in pixel_faults(View(tree, {"data.scaling"}))} == {"data.crop"}
