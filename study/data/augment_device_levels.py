"""Contrast-limited equalisation of batches by torch, as OpenCV does it, and the colour space that it needs."""

import functools
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from study.data.augment_spec import CLAHE_TILES

BINS: Final = 256
# sRGB with white D65 to CIE XYZ, rows divided by the white point (OpenCV's numbers).
_TO_XYZ: Final = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)

_SHIFT: Final = 12
_GAMMA_SHIFT: Final = 3
_ROOT_SHIFT: Final = _SHIFT + _GAMMA_SHIFT
_L_SCALE: Final = (116 * 255 + 50) // 100
_L_OFFSET: Final = (16 * 255 * (1 << _ROOT_SHIFT) + 50) // 100


def equalised(levels_nchw: Tensor, clip_limits_n: NDArray[np.float64], *, bits: int) -> Tensor:
    """Whole levels in float32 [N, C, H, W], equalised with a clip limit each; of colour the lightness alone.

    Of 16 bits the upper 8 are equalised and the change is added to all, as in the other modes.
    """
    if bits == 16:
        coarse = torch.floor(levels_nchw / 256)
        change = equalised(coarse, clip_limits_n, bits=8) - coarse
        return (levels_nchw + 257 * change).clamp_(0, 65535)
    if levels_nchw.shape[1] == 1:
        return clahe(levels_nchw[:, 0], clip_limits_n).unsqueeze(1)
    lab = lab_of_rgb(levels_nchw)
    lab[:, 0] = clahe(lab[:, 0], clip_limits_n)
    return rgb_of_lab(lab)


def clahe(levels_nhw: Tensor, clip_limits_n: NDArray[np.float64]) -> Tensor:
    """Each pixel through the tables of the four nearest of 8 x 8 tiles, weighed by distance (Zuiderveld 1994).

    Counts above the limit are spread over all levels of a tile. Frames that tiles do not divide are mirrored at the
    right and the bottom for the counts.
    """
    count, height, width = levels_nhw.shape
    tables, (tile_h, tile_w) = _tables(levels_nhw, clip_limits_n)
    rows, columns = _neighbours(height, tile_h, levels_nhw.device), _neighbours(width, tile_w, levels_nhw.device)
    first = torch.arange(count, device=levels_nhw.device).view(-1, 1, 1) * CLAHE_TILES**2 * BINS + levels_nhw.long()
    flat = tables.flatten()

    def through(tile_h: Tensor, tile_w: Tensor) -> Tensor:
        return flat[first + (tile_h.view(-1, 1) * CLAHE_TILES + tile_w) * BINS]

    share_h, share_w = rows[2].view(-1, 1), columns[2]
    above = through(rows[0], columns[0]) * (1 - share_w) + through(rows[0], columns[1]) * share_w
    below = through(rows[1], columns[0]) * (1 - share_w) + through(rows[1], columns[1]) * share_w
    return (above * (1 - share_h) + below * share_h).round_().clamp_(0, 255)


def _tables(levels_nhw: Tensor, clip_limits_n: NDArray[np.float64]) -> tuple[Tensor, tuple[int, int]]:
    """Tables of all tiles [N, 64, 256], and the height and width of a tile."""
    count, height, width = levels_nhw.shape
    if height % CLAHE_TILES or width % CLAHE_TILES:
        edges = (0, CLAHE_TILES - width % CLAHE_TILES, 0, CLAHE_TILES - height % CLAHE_TILES)
        levels_nhw = F.pad(levels_nhw.unsqueeze(1), edges, mode="reflect").squeeze(1)
    tile_h, tile_w = levels_nhw.shape[1] // CLAHE_TILES, levels_nhw.shape[2] // CLAHE_TILES
    area = tile_h * tile_w
    tiles = levels_nhw.reshape(count, CLAHE_TILES, tile_h, CLAHE_TILES, tile_w).transpose(2, 3).reshape(-1, area)
    bins = torch.arange(len(tiles), device=tiles.device).view(-1, 1) * BINS + tiles.long()
    counts = torch.zeros(len(tiles) * BINS, dtype=torch.int64, device=tiles.device)
    counts.scatter_add_(0, bins.flatten(), torch.ones_like(bins).flatten())
    limits = np.maximum((clip_limits_n * area / BINS).astype(np.int64), 1).repeat(CLAHE_TILES**2)
    limit = torch.from_numpy(limits).to(tiles.device).view(-1, 1)
    counts = counts.view(-1, BINS)
    above = (counts - limit).clamp_(min=0).sum(dim=1, keepdim=True)
    even, rest = above // BINS, above % BINS
    step = (BINS // rest.clamp(min=1)).clamp_(min=1)
    level = torch.arange(BINS, device=tiles.device)
    counts = counts.minimum(limit) + even + ((level % step == 0) & (level // step < rest))
    scale = torch.tensor(np.float32(BINS - 1) / np.float32(area), device=tiles.device)
    tables = (counts.cumsum(dim=1).float() * scale).round_().clamp_(0, 255)
    return tables.view(count, -1, BINS), (tile_h, tile_w)


def _neighbours(side: int, tile: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel along a side the tiles before and behind it, and the share of the one behind."""
    place = torch.arange(side, device=device, dtype=torch.float32) * torch.tensor(np.float32(1 / tile)) - 0.5
    before = place.floor()
    share = place - before
    return before.long().clamp_(min=0), (before.long() + 1).clamp_(max=CLAHE_TILES - 1), share


def lab_of_rgb(levels_nchw: Tensor) -> Tensor:
    """RGB of 8 bits to CIE L*a*b* of 8 bits: L 0 to 255 for 0 to 100, a and b with 128 for 0; whole levels.

    In whole numbers as OpenCV does it, for the tables of :func:`clahe` may jump where one level of a tile changes.
    """
    device = levels_nchw.device
    linear, roots, weights = (torch.from_numpy(table).to(device) for table in _lab_tables())
    red, green, blue = linear[levels_nchw.long()].unbind(1)
    half = 1 << (_SHIFT - 1)
    fx, fy, fz = (roots[(row[0] * red + row[1] * green + row[2] * blue + half) >> _SHIFT] for row in weights)
    offset = (128 << _ROOT_SHIFT) + (1 << (_ROOT_SHIFT - 1))
    lightness = (_L_SCALE * fy - _L_OFFSET + (1 << (_ROOT_SHIFT - 1))) >> _ROOT_SHIFT
    a, b = (500 * (fx - fy) + offset) >> _ROOT_SHIFT, (200 * (fy - fz) + offset) >> _ROOT_SHIFT
    return torch.stack([lightness, a, b], dim=1).clamp_(0, 255).float()


@functools.cache
def _lab_tables() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Linear light of 8-bit levels, cube roots of linear light (both fixed-point), and weights of the channels."""
    share = np.arange(BINS) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    light = np.arange(BINS * 3 // 2 << _GAMMA_SHIFT) / (255 << _GAMMA_SHIFT)
    roots = np.where(light < 216 / 24389, light * 841 / 108 + 16 / 116, np.cbrt(light))
    tables = (linear * (255 << _GAMMA_SHIFT), roots * (1 << _ROOT_SHIFT), np.array(_TO_XYZ) * (1 << _SHIFT))
    first, second, third = (np.rint(table).astype(np.int64) for table in tables)
    return first, second, third


def rgb_of_lab(lab_nchw: Tensor) -> Tensor:
    """The way back from :func:`lab_of_rgb`; whole levels."""
    lightness, a, b = lab_nchw.unbind(1)
    fy = (lightness / 2.55 + 16) / 116
    fxyz = (fy + (a - 128) / 500, fy, fy - (b - 128) / 200)
    edge = 0.008856 ** (1 / 3)
    x, y, z = (torch.where(one > edge, one**3, (one - 16 / 116) / 7.787) for one in fxyz)
    back = np.linalg.inv(np.array(_TO_XYZ)).tolist()
    linear = torch.stack([row[0] * x + row[1] * y + row[2] * z for row in back], dim=1).clamp_(0, 1)
    share = torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (share * 255).round_().clamp_(0, 255)
