"""The display transform of a DICOM file as a table over its stored values: modality, then VOI, each a LUT or numbers.

Off by default: paper ordinal (section 2.2) leaves it out, since it differs from vendor to vendor.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from study.errors import DicomError

U16 = npt.NDArray[np.uint16]
F64 = npt.NDArray[np.float64]

FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
FIX: Final = "leave the file out, or set lut: none"


def voi_table(dataset: Dataset, *, bits: int, signed: bool) -> U16 | None:
    """What each value becomes, rescaled to 0 .. 2**bits - 1: uint16 [2**bits]; None if the file has no transform.

    Entry 0 belongs to the lowest value that ``bits`` can hold, which is negative for signed files. A look-up table goes
    before a window (it is the exacter of the two); of several, the first counts (DICOM PS3.3 C.11.2).

    Raises:
        DicomError: the window or table makes no sense.
    """
    lowest = -(2 ** (bits - 1)) if signed else 0
    values = np.arange(lowest, lowest + 2**bits, dtype=np.float64)
    share: F64 | None = None
    if dataset.get("ModalityLUTSequence"):
        values, depth = _looked_up(dataset.ModalityLUTSequence[0], values, name="modality LUT")
        share = values / (2**depth - 1)
    else:
        values = values * _number(dataset, "RescaleSlope", 1.0) + _number(dataset, "RescaleIntercept", 0.0)
    if dataset.get("VOILUTSequence"):
        shown, depth = _looked_up(dataset.VOILUTSequence[0], values, name="VOI LUT")
        share = shown / (2**depth - 1)
    else:
        window = _window_share(dataset, values)
        share = share if window is None else window
    if share is None:
        return None
    return np.asarray(np.rint(np.clip(share, 0, 1) * (2**bits - 1)), dtype=np.uint16)


def _window_share(dataset: Dataset, values: F64) -> F64 | None:
    """Brightness 0 .. 1 by the first window (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if dataset.get("WindowCenter") in (None, "") or dataset.get("WindowWidth") in (None, ""):
        return None
    centre, width = _number(dataset, "WindowCenter", 0.0), _number(dataset, "WindowWidth", 0.0)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in FUNCTIONS:
        raise DicomError(f"VOILUTFunction is none of {', '.join(FUNCTIONS)}", FIX)
    if width < 1 if function == "LINEAR" else width <= 0:
        raise DicomError(f"WindowWidth is {width:g}; expected a positive width", FIX)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))), dtype=np.float64)
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if width == 1:
        return np.asarray(values > centre - 0.5, dtype=np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _looked_up(item: Dataset, values: F64, *, name: str) -> tuple[F64, int]:
    """Values through the table of a sequence's item, and its depth in bits (PS3.3 C.11.1.1, C.11.2.1.1)."""
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or len(descriptor) != 3 or data is None:
        raise DicomError(f"the {name} is incomplete", FIX)
    entries, first, depth = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
    wide = isinstance(data, bytes) and len(data) >= 2 * entries
    table = np.frombuffer(data, "<u2" if wide else "u1") if isinstance(data, bytes) else np.asarray(data)
    if not 8 <= depth <= 16 or table.size < entries:
        raise DicomError(f"the {name} holds {table.size} entries of {depth} bits; expected {entries} of 8 to 16", FIX)
    index = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)
    return np.asarray(table[index], dtype=np.float64), depth


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    """A number, the first of several, or the default where there is none."""
    value = dataset.get(keyword)
    if value in (None, ""):
        return default
    first = value if isinstance(value, str) or not hasattr(value, "__getitem__") else value[0]
    return float(first)
