"""Changes of brightness, and dropped pixels, in place: the second half of a recipe.

Each equals albumentations' transform of the same name, bit for bit on 8 bits, for the same numbers. Everything between
equalisation and sharpening is one table of all levels.
"""

from typing import Any

import cv2
import numpy as np
import stringzilla

from study.data.augment_recipe import Recipe
from study.data.augment_spec import CLAHE_TILES
from study.data.augment_tables import level_table, sharpening_kernel
from study.data.augment_transforms import Pixels


def relevelled(image: Pixels, recipe: Recipe) -> None:
    """Change brightness, sharpness and dropped pixels of ``image`` [H, W] or [H, W, 3] in place."""
    if recipe.clip_limit is not None:
        equalised(image, recipe.clip_limit)
    table = level_table(recipe, bits=8 * image.dtype.itemsize)
    if table is not None:
        if image.dtype == np.uint8:
            stringzilla.translate(image.data, table.data, inplace=True)
        else:
            image[...] = table[image]
    if recipe.sharpening is not None:
        cv2.filter2D(image, -1, sharpening_kernel(*recipe.sharpening), dst=image)
    if recipe.dropped_n is not None:
        image.reshape(image.shape[0] * image.shape[1], -1)[recipe.dropped_n] = 0
    if recipe.holes_n4 is not None:
        for left, top, right, bottom in recipe.holes_n4.tolist():
            image[top:bottom, left:right] = 0


def equalised(image: Pixels, clip_limit: float) -> None:
    """Contrast-limited equalisation in 8 x 8 tiles, in place; of colour the lightness alone.

    Of 16 bits the upper 8 are equalised and the change is added to all: on 65,536 levels the clip limit would be below
    one pixel, and nothing would be equalised.
    """
    if image.dtype == np.uint16:
        coarse = (image >> 8).astype(np.uint8)
        before = coarse.astype(np.int32)
        equalised(coarse, clip_limit)
        image[...] = np.clip(image + 257 * (coarse - before), 0, 65535)
        return
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(CLAHE_TILES, CLAHE_TILES))
    if image.ndim == 2:
        clahe.apply(image, dst=image)
        return
    lab: Any = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[:, :, 0] = clahe.apply(lab[:, :, 0])
    cv2.cvtColor(lab, cv2.COLOR_LAB2RGB, dst=image)
