"""Limits for archives that others made: a few kilobytes can unpack to more than a machine holds.

Nothing of ours unpacks an archive to a folder, so that names of its members lead nowhere.
"""

import zipfile
from typing import Final

SMALL: Final = 2**28  # bytes: up to here nobody asks how well a member was packed
DENSEST: Final = 200  # pictures and tables do not pack better; zeros pack a thousandfold


def unpacks_too_far(archive: zipfile.ZipFile, member: str | None = None) -> bool:
    """Whether one member, or all of them together, would unpack to far more than real content could.

    Raises:
        KeyError: there is no such member.
    """
    members = archive.infolist() if member is None else [archive.getinfo(member)]
    unpacked = sum(each.file_size for each in members)
    return unpacked > SMALL and unpacked > DENSEST * sum(each.compress_size for each in members)
