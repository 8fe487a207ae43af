"""Made-up sites, written on first use."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from study.data.files import is_remote, join, local_path, shown
from study.data.manifest import finish_manifest
from study.data.phantom import LABELS_FILE, PhantomSettings, write_phantom
from study.data.sources.cells import read_text_table, understand
from study.errors import InputError


def read_phantom(  # noqa: PLR0913 - one keyword for each option of the source
    root: str | Path,
    *,
    name: str = "phantom",
    patients: int,
    seed: int = 0,
    vendors: Sequence[str] | None = None,
    shares: Mapping[str, float] | None = None,
    rows: int | None = None,
    cols: int | None = None,
    grades: Sequence[float] | None = None,
    reader_noise: float | None = None,
    look: str | None = None,
) -> pd.DataFrame:
    """Read a made-up site from its label table, after writing whatever is missing of it under ``root``.

    Where an option is left out, the default of `PhantomSettings` holds.

    Raises:
        InputError: settings that make no site, or a root that holds another one or is not a local folder.
    """
    if is_remote(root):
        raise InputError(
            f"phantom root {shown(root)} is a URI; expected a local folder", "give the phantom another root"
        )
    given: dict[str, Any] = {"rows": rows, "cols": cols, "reader_noise": reader_noise, "look": look}
    given |= {"vendors": tuple(vendors) if vendors else None, "shares": shares or None}
    given["grades"] = tuple(grades) if grades else None
    options = {key: value for key, value in given.items() if value is not None}
    settings = PhantomSettings(name=name, patients=patients, seed=seed, **options)
    folder = local_path(root)
    write_phantom(folder, settings)
    table = join(folder, LABELS_FILE)
    known = understand(read_text_table(table), table=table)
    known["path"] = [join(folder, path) for path in known["path"]]
    return finish_manifest(known, source=name)
