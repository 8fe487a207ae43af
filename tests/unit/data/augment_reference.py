"""What albumentations' own functions make of a recipe, one step after the other, each interpolating anew."""

import albucore
import cv2
import numpy as np
from albumentations.augmentations.dropout import functional as dropping
from albumentations.augmentations.geometric import functional as places
from albumentations.augmentations.pixel import functional as pixels

from study.data.augment_spec import GRID_STEPS

BORDER = {"interpolation": cv2.INTER_LINEAR, "border_mode": cv2.BORDER_CONSTANT}


def moved(image, recipe):
    """The picture behind each geometric step of the recipe, in albumentations' order."""
    out = places.rot90(image, recipe.quarter_turns)
    if not recipe.is_flipped_last:
        out = flipped(out, recipe)
    for affine in (recipe.move, recipe.zoom):
        out = out if affine is None else affinely(out, affine)
    if recipe.is_flipped_last:
        out = flipped(out, recipe)
    if recipe.lens is not None:
        maps = places.get_camera_matrix_distortion_maps(image.shape[:2], recipe.lens)
        out = places.remap(out, *maps, value=0, **BORDER)
    if recipe.grid is not None:
        steps = places.normalize_grid_distortion_steps(
            image.shape[:2], GRID_STEPS, list(recipe.grid.steps_x), list(recipe.grid.steps_y)
        )
        maps = places.generate_grid(image.shape[:2], **steps, num_steps=GRID_STEPS)
        out = places.remap(out, *maps, value=0, **BORDER)
    return np.ascontiguousarray(out)


def flipped(image, recipe):
    out = albucore.hflip(np.ascontiguousarray(image)) if recipe.is_mirrored_x else image
    return albucore.vflip(np.ascontiguousarray(out)) if recipe.is_mirrored_y else out


def affinely(image, affine):
    matrix = places.create_affine_transformation_matrix(
        {"x": affine.shift_xy[0], "y": affine.shift_xy[1]},
        {"x": 0.0, "y": 0.0},
        {"x": affine.zoom, "y": affine.zoom},
        affine.rotate,
        places.center(image.shape[:2]),
    )
    return places.warp_affine(np.ascontiguousarray(image), matrix, fill=0, output_shape=image.shape[:2], **BORDER)


def relevelled(image, recipe):
    """The picture behind each step on brightness and each dropout; 8 bits."""
    out = image.copy()
    if recipe.clip_limit is not None:
        out = pixels.clahe(out, recipe.clip_limit, (8, 8))
    if recipe.contrast is not None:
        out = albucore.multiply_add(out, recipe.contrast[0], recipe.contrast[1] * 255, inplace=False)
    if recipe.gamma is not None:
        out = pixels.gamma_transform(out, recipe.gamma)
    if recipe.sharpening is not None:
        alpha, lightness = recipe.sharpening
        nothing = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
        edges = np.array([[-1, -1, -1], [-1, 8 + lightness, -1], [-1, -1, -1]], dtype=np.float32)
        out = pixels.convolve(out, (1 - alpha) * nothing + alpha * edges)
    if recipe.dropped_n is not None:
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask.flat[recipe.dropped_n] = True
        mask = mask if image.ndim == 2 else np.repeat(mask[..., None], 3, axis=2)
        out = pixels.pixel_dropout(out, mask, np.zeros_like(out))
    if recipe.holes_n4 is not None:
        out = dropping.fill_holes_with_value(out.copy(), recipe.holes_n4, np.array(0, dtype=out.dtype))
    return out
