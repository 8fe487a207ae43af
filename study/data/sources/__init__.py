"""One reader per kind of data set; all give the manifest of `study.data.manifest`, tables only, no pixels."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import pandas as pd

from study.data.sources.cbis_ddsm import read_cbis_ddsm
from study.data.sources.cmmd import read_cmmd
from study.data.sources.embed import read_embed
from study.data.sources.image_folder import read_image_folder
from study.data.sources.inbreast import read_inbreast
from study.data.sources.mias import read_mias
from study.data.sources.npz import read_npz
from study.data.sources.phantom import read_phantom
from study.data.sources.places import check_inside
from study.data.sources.rsna import read_rsna
from study.data.sources.table import read_table
from study.data.sources.vindr import read_vindr
from study.errors import InputError

SOURCES: Final[Mapping[str, Callable[..., pd.DataFrame]]] = {
    "phantom": read_phantom,
    "vindr": read_vindr,
    "inbreast": read_inbreast,
    "embed": read_embed,
    "cbis_ddsm": read_cbis_ddsm,
    "cmmd": read_cmmd,
    "rsna": read_rsna,
    "mias": read_mias,
    "image_folder": read_image_folder,
    "npz": read_npz,
    "table": read_table,
}


WITHOUT_FOLDER: Final = ("phantom", "npz")  # files of their own making, or one file


def read_source(
    kind: str, root: str | Path, *, name: str | None = None, allow_outside: bool = False, **options: object
) -> pd.DataFrame:
    """Read one source to a manifest: a row per image, all columns of `MANIFEST_COLUMNS`.

    Args:
        kind: a name of `SOURCES`.
        root: the data set's folder; ``path`` in the result is absolute.
        name: what the column ``source`` says; the kind if not given.
        allow_outside: whether tables and links may name files outside of the root.
        options: keywords of that kind's reader, such as ``table`` or ``patients``.

    Raises:
        InputError: an unknown kind or option, a missing option or file, a table that cannot be understood, or
            files outside of the root.
    """
    if kind not in SOURCES:
        raise InputError(
            f"source kind {kind!r}; expected {', '.join(SOURCES)}{_nearest(kind, list(SOURCES))}", "correct the kind"
        )
    reader = SOURCES[kind]
    known = {key: value for key, value in inspect.signature(reader).parameters.items() if key not in ("root", "name")}
    for option in options:
        if option not in known:
            expected = ", ".join(known) or "no options"
            raise InputError(
                f"source {kind} has no option {option!r}; expected {expected}{_nearest(option, list(known))}",
                "correct or remove the option",
            )
    missing = [key for key, value in known.items() if value.default is inspect.Parameter.empty and key not in options]
    if missing:
        raise InputError(f"source {kind} lacks {', '.join(missing)}", "give it in the study file")
    manifest = reader(root, name=name or kind, **options)
    if kind not in WITHOUT_FOLDER and not allow_outside:
        check_inside(manifest["path"].dropna(), root, name=name or kind)
    return manifest


def _nearest(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
