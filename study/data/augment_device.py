"""Augmentation of whole batches on the device that trains: the fast mode's recipes, carried out by torch.

A picture's recipe is that of the fast mode, drawn on the host from (seed, draw). What differs is rounding: torch
interpolates in float32, and levels between two steps are rounded to whole ones here as there. Sums are of elements, not
products of matrices, which a GPU may round to 10 bits (TF32): an error of half a pixel.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from study.data.augment_device_levels import equalised
from study.data.augment_map import Map, border_map, is_exact, loses_pixels, source_map
from study.data.augment_recipe import Recipe, draw_recipe
from study.data.augment_spec import SPECS
from study.data.augment_tables import level_table, sharpening_kernel
from study.errors import InputError

POWERS = 6  # of y, in a map


class DeviceAugment:
    """One policy for batches of tensors, with the recipes of mode ``fast``; it keeps no state.

    Args:
        policy: its name in ``SPECS``.
        seed: of the run, >= 0.

    Raises:
        InputError: unknown policy.
    """

    def __init__(self, policy: str, *, seed: int) -> None:
        if policy not in SPECS:
            raise InputError(f"augment.policy is {policy!r}; expected one of {', '.join(SPECS)}", "edit augment.policy")
        self.policy = policy
        self.seed = seed

    @torch.no_grad()
    def __call__(self, images_nchw: Tensor, *, draws_n: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Augment a batch where it lies.

        Args:
            images_nchw: uint8 or uint16 [N, C, H, W] with 1 or 3 channels; not changed.
            draws_n: number of the draw of each image in the run, >= 0.

        Returns:
            A tensor of the same shape, type and device; the images themselves for a policy without transforms.

        Raises:
            InputError: images of another type or number of channels, or not as many draws as images.
        """
        if images_nchw.dtype not in {torch.uint8, torch.uint16} or images_nchw.ndim != 4:
            raise InputError(
                f"images {images_nchw.dtype} {list(images_nchw.shape)}; expected 8 or 16 bits [N, C, H, W]"
            )
        if images_nchw.shape[1] not in {1, 3} or len(draws_n) != len(images_nchw):
            found = f"{images_nchw.shape[1]} channels, {len(draws_n)} draws for {len(images_nchw)} images"
            raise InputError(f"{found}; expected 1 or 3 channels and a draw for each image")
        if self.policy == "none" or not len(images_nchw):
            return images_nchw
        hw = (images_nchw.shape[2], images_nchw.shape[3])
        spec = SPECS[self.policy]
        recipes = [draw_recipe(spec, image_hw=hw, seed=self.seed, draw=int(draw)) for draw in draws_n]
        return carried_out(images_nchw, recipes)


def carried_out(images_nchw: Tensor, recipes: Sequence[Recipe]) -> Tensor:
    """A batch, uint8 or uint16 [N, C, H, W], with the recipe of each image carried out; same shape, type and device."""
    bits = 8 if images_nchw.dtype == torch.uint8 else 16
    levels = images_nchw.float()
    levels = _moved(levels, recipes)
    for step in (_equalised, _mapped, _sharpened, _dropped):
        levels = step(levels, recipes, bits)
    return levels.to(torch.int32).to(images_nchw.dtype)


def _on(device: torch.device, array: NDArray[np.generic]) -> Tensor:
    """An array on the device; the host does not wait for a GPU."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _where(recipes: Sequence[Recipe], has: Callable[[Recipe], bool]) -> list[int]:
    return [place for place, recipe in enumerate(recipes) if has(recipe)]


def _moved(levels: Tensor, recipes: Sequence[Recipe]) -> Tensor:
    """All changes of place: turns and flips exactly, all else by one bilinear interpolation."""
    hw = (levels.shape[2], levels.shape[3])
    out = torch.empty_like(levels)
    for place in _where(recipes, is_exact):
        out[place] = _turned(levels[place], recipes[place])
    bent = _where(recipes, lambda recipe: not is_exact(recipe))
    if bent:
        chosen = _on(levels.device, np.array(bent))
        x, y = _places([source_map(recipes[place], hw) for place in bent], levels.device)
        # The middle of the first pixel is 0 in a map, and half a pixel from the left edge at -1 for torch.
        where = torch.stack([(2 * x + 1) / hw[1] - 1, (2 * y + 1) / hw[0] - 1], dim=-1)
        sampled = F.grid_sample(levels[chosen], where, mode="bilinear", padding_mode="zeros", align_corners=False)
        out[chosen] = sampled.round_()
    lost = _where(recipes, loses_pixels)
    if lost:
        chosen = _on(levels.device, np.array(lost))
        x, y = _places([border_map(recipes[place], hw) for place in lost], levels.device)
        kept = (x.abs() <= hw[1] / 2) & (y.abs() <= hw[0] / 2)
        out[chosen] = out[chosen] * kept.unsqueeze(1)
    return out


def _turned(image_chw: Tensor, recipe: Recipe) -> Tensor:
    turned = torch.rot90(image_chw, recipe.quarter_turns, (1, 2))
    axes = [axis for axis, is_flipped in ((2, recipe.is_mirrored_x), (1, recipe.is_mirrored_y)) if is_flipped]
    return turned.flip(axes) if axes else turned


def _places(maps: Sequence[Map], device: torch.device) -> tuple[Tensor, Tensor]:
    """Source x and y [N, H, W] of every pixel, by Horner's rule over powers of y."""
    columns = np.zeros((len(maps), POWERS, maps[0].columns_k2w.shape[1]), dtype=np.float32)
    for place, one in enumerate(maps):
        columns[place, : len(one.columns_k2w)] = one.columns_k2w
    y_nh = _on(device, np.stack([one.rows_hk[:, 1] for one in maps])).unsqueeze(2)
    columns_nkw = _on(device, columns)
    places = columns_nkw[:, POWERS - 1 :].expand(-1, y_nh.shape[1], -1)
    for power in range(POWERS - 2, -1, -1):
        places = places * y_nh + columns_nkw[:, power : power + 1]
    x, y = places.chunk(2, dim=2)
    return x, y


def _equalised(levels: Tensor, recipes: Sequence[Recipe], bits: int) -> Tensor:
    chosen = _where(recipes, lambda recipe: recipe.clip_limit is not None)
    if chosen:
        limits = np.array([recipes[place].clip_limit for place in chosen], dtype=np.float64)
        places = _on(levels.device, np.array(chosen))
        levels[places] = equalised(levels[places], limits, bits=bits)
    return levels


def _mapped(levels: Tensor, recipes: Sequence[Recipe], bits: int) -> Tensor:
    """Brightness, contrast, gamma and sigmoid by one table of each image."""
    tables = {place: table for place, one in enumerate(recipes) if (table := level_table(one, bits=bits)) is not None}
    if tables:
        places = _on(levels.device, np.array(list(tables)))
        table_nl = _on(levels.device, np.stack(list(tables.values())).astype(np.float32))
        chosen = levels[places]
        levels[places] = table_nl.gather(1, chosen.flatten(1).long()).view_as(chosen)
    return levels


def _sharpened(levels: Tensor, recipes: Sequence[Recipe], bits: int) -> Tensor:
    chosen = _where(recipes, lambda recipe: recipe.sharpening is not None)
    if not chosen:
        return levels
    kernels = np.stack([sharpening_kernel(*(recipes[place].sharpening or (0.0, 0.0))) for place in chosen])
    places = _on(levels.device, np.array(chosen))
    centre, around = _on(levels.device, np.stack([kernels[:, 1, 1], kernels[:, 0, 0]])).view(2, -1, 1, 1, 1)
    middle = levels[places]
    height, width = middle.shape[2:]
    padded = F.pad(middle, (1, 1, 1, 1), mode="reflect" if min(height, width) > 1 else "replicate")
    sums = -middle
    for row in range(3):
        for column in range(3):
            sums = sums + padded[:, :, row : row + height, column : column + width]
    levels[places] = (centre * middle + around * sums).round_().clamp_(0, 2**bits - 1)
    return levels


def _dropped(levels: Tensor, recipes: Sequence[Recipe], _bits: int) -> Tensor:
    """Single pixels by their positions, holes by a mask that the host draws."""
    count, _, height, width = levels.shape
    positions = [
        place * height * width + recipe.dropped_n
        for place, recipe in enumerate(recipes)
        if recipe.dropped_n is not None
    ]
    if positions:
        kept = torch.ones(count * height * width, device=levels.device)
        kept[_on(levels.device, np.concatenate(positions))] = 0
        levels *= kept.view(count, 1, height, width)
    holed = _where(recipes, lambda recipe: recipe.holes_n4 is not None)
    if holed:
        masks = np.ones((len(holed), 1, height, width), dtype=np.bool_)
        for mask, place in zip(masks, holed, strict=True):
            for left, top, right, bottom in np.asarray(recipes[place].holes_n4).tolist():
                mask[0, top:bottom, left:right] = False
        levels[_on(levels.device, np.array(holed))] *= _on(levels.device, masks)
    return levels
