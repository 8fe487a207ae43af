"""Every package that study needs, with its licence: read from what is installed, so it holds for this machine.

Of the packages that ``pip install study`` brings, none may be under the GPL or AGPL; those under the LGPL are named.
What wheels carry beside their own code is told by the names of the libraries in them.
"""

import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from study.errors import EXIT_DONE, EXIT_FAILED, EnvironmentFault

if TYPE_CHECKING:
    from importlib.metadata import Distribution

Kind = Literal["permissive", "weak copyleft", "copyleft", "unknown"]

# The first pattern that a text fits decides; the names of the LGPL hold those of the GPL.
KINDS: Final[tuple[tuple[re.Pattern[str], Kind], ...]] = (
    (re.compile(r"\bLGPL|lesser general public|library general public"), "weak copyleft"),
    (re.compile(r"GPL[-v0-9.]*(or-later|only)?[- ]with|with[- ](gcc|classpath)"), "weak copyleft"),
    (re.compile(r"\bA?GPL|affero|general public licen[cs]e"), "copyleft"),
    (re.compile(r"\bMPL|mozilla public|\bEPL|eclipse public|\bCDDL|\bEUPL"), "weak copyleft"),
    (
        re.compile(
            r"apache|\bbsd|\b0bsd|\bmit\b|\bmit-|\bisc\b|\bpsf|python software foundation|\bzlib|unlicense|cc0|\bhpnd"
            r"|\bbsl-1|\bboost|public domain|permission is hereby granted"
            r"|redistribution and use in source and binary forms"
        ),
        "permissive",
    ),
)
WORST: Final[tuple[Kind, ...]] = ("permissive", "weak copyleft", "unknown", "copyleft")
BUNDLED: Final = (
    (re.compile(r"^lib(avcodec|avformat|avutil|avfilter|swscale|swresample)\b"), "FFmpeg (LGPL-2.1-or-later)"),
    (re.compile(r"^libquadmath\b"), "libquadmath (LGPL-2.1-or-later)"),
    (re.compile(r"^lib(gfortran|gomp|gcc_s|stdc\+\+)\b"), "GCC runtime (GPL-3.0 with its exception for all programs)"),
    (re.compile(r"^lib(heif|de265|mp3lame|fribidi|gmp|mpfr|geos|cairo|glib|rsvg)\b"), "a library under the LGPL"),
    (re.compile(r"^lib(x264|x265|fftw3|gsl|readline)\b"), "a library under the GPL"),
    (
        re.compile(r"^lib(cudart|cudnn|cublas|cufft|cusparse|nccl|nvjpeg|nvrtc)"),
        "CUDA (NVIDIA's terms)",
    ),
)
GROUP: Final = re.compile(r"(?:^|(?<=\()|(?<=OR\s)|(?<=AND\s))\(([^()]+)\)")  # not what explains a name
NAMES: Final[dict[Kind, str]] = {"permissive": "MIT", "weak copyleft": "MPL", "copyleft": "GPL", "unknown": "?"}
LONGEST: Final = 60
FILES: Final = re.compile(r"licen[cs]e|copying", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """One installed package: its licence in words, what kind that is, and what else its wheel carries.

    ``extra`` is empty for what the default install brings, else the extra of study that needs it.
    """

    package: str
    version: str
    licence: str
    kind: Kind
    extra: str = ""
    bundles: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether it must not be there: GPL or AGPL in the default install."""
        return self.kind == "copyleft" and not self.extra


def licences(root: str = "study") -> list[Licence]:
    """All installed packages that ``root`` reaches, by name; those of its extras too, where they are installed.

    Raises:
        EnvironmentFault: ``root`` itself is not installed.
    """
    try:
        requirements = importlib.metadata.requires(root) or []
    except importlib.metadata.PackageNotFoundError:
        raise EnvironmentFault(f"{root} itself is not installed, so nobody knows what it needs", "make setup") from None
    default = _reached(requirements, [""])
    found = dict.fromkeys(default, "")
    for extra in importlib.metadata.metadata(root).get_all("Provides-Extra") or []:
        for name in _reached(requirements, [extra]):
            found.setdefault(name, str(extra))
    found.pop(_normal(root), None)
    return sorted((_licence(name, extra) for name, extra in found.items()), key=lambda each: each.package.lower())


def licences_exit_code(found: Sequence[Licence]) -> int:
    """1 when the default install holds a package under the GPL or AGPL, else 0."""
    return EXIT_FAILED if any(each.is_refused for each in found) else EXIT_DONE


def licences_table(found: Sequence[Licence], *, width: int = 100) -> str:
    """Package, version, licence and what is to be known of each, at most ``width`` columns, and a line that sums up."""
    sizes = [max(map(len, column)) for column in zip(*((each.package, each.version) for each in found), strict=True)]
    room = max(20, width - sum(sizes) - 4)
    lines = []
    for each in found:
        head = f"{each.package:<{sizes[0]}}  {each.version:<{sizes[1]}}  "
        note = "" if each.kind == "permissive" else f"  [{each.kind}]"
        lines.append(head + each.licence[: room - len(note)] + note)
        lines += [f"{'':<{sum(sizes) + 4}}carries {bundle}" for bundle in each.bundles]
    return "\n".join([*lines, "", *_summary(found)])


def _summary(found: Sequence[Licence]) -> Iterator[str]:
    default = [each for each in found if not each.extra]
    yield f"{len(default)} packages in the default install, {len(found) - len(default)} more in extras"
    for kind in WORST[1:]:
        names = [each.package + (f" ({each.extra})" if each.extra else "") for each in found if each.kind == kind]
        if names:
            yield f"{kind}: {', '.join(names)}"
    refused = [each.package for each in default if each.is_refused]
    yield (
        f"not allowed in the default install: {', '.join(refused)}"
        if refused
        else "no GPL or AGPL in the default install"
    )


def _reached(requirements: Iterable[str], extras: Sequence[str]) -> list[str]:
    """Names of the installed packages behind some requirements, with all that they need in turn."""
    from packaging.requirements import Requirement

    found: list[str] = []
    seen: set[tuple[str, str]] = set()
    todo = [(text, extra) for text in requirements for extra in extras]
    while todo:
        text, extra = todo.pop()
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = _normal(requirement.name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            try:
                inner = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # what is not installed has no licence here
            found.append(name)
            todo += [(each, wanted) for each in inner]
    return list(dict.fromkeys(found))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _licence(name: str, extra: str) -> Licence:
    package = importlib.metadata.distribution(name)
    text = _stated(package)
    return Licence(
        package=str(package.metadata["Name"]),
        version=package.version.strip(),
        licence=text or "not stated",
        kind=kind_of(text),
        extra=extra,
        bundles=_bundles(package),
    )


def kind_of(text: str) -> Kind:
    """What a licence asks for: the mildest of alternatives (OR), the strictest of those that hold together (AND)."""
    if not text:
        return "unknown"
    while group := GROUP.search(text):  # the innermost first, by a word that stands for what it comes to
        text = text[: group.start()] + NAMES[_of_alternatives(group[1])] + text[group.end() :]
    return _of_alternatives(text)


def _of_alternatives(text: str) -> Kind:
    return min((_of_all(each) for each in re.split(r"\s+OR\s+", text)), key=WORST.index)


def _of_all(text: str) -> Kind:
    kinds = [_of_one(part) for part in re.split(r"\s+AND\s+|;", text)]
    return max(kinds, key=WORST.index)


def _of_one(text: str) -> Kind:
    words = text.strip("() ")
    return next((kind for pattern, kind in KINDS if re.search(pattern.pattern, words, re.IGNORECASE)), "unknown")


def _stated(package: "Distribution") -> str:
    """The licence by its expression, its classifiers, its field, or the first lines of its licence file."""
    metadata: Any = package.metadata
    if metadata.get("License-Expression"):
        return str(metadata["License-Expression"])
    classifiers = [str(each) for each in metadata.get_all("Classifier") or [] if str(each).startswith("License ::")]
    named = [each.rpartition("::")[2].strip() for each in classifiers]
    named = [each for each in named if each != "OSI Approved"]
    if named:
        return "; ".join(named) if len(named) == 1 else " OR ".join(named)
    field = next(iter(str(metadata.get("License") or "").strip().splitlines()), "")
    if field and _of_one(field) != "unknown":
        return field[:LONGEST]
    return _of_file(package)


def _of_file(package: "Distribution") -> str:
    """A licence that stands in its file alone, by the words of its text."""
    for file in package.files or []:
        if FILES.search(file.name) and ".dist-info" in str(file):
            place = Path(str(file.locate()))
            text = " ".join(place.read_text(encoding="utf-8", errors="replace").split()) if place.is_file() else ""
            kind = _of_one(text[:5000])
            if "permission is hereby granted, free of charge" in text.lower():
                return "MIT (by the text of its file)"
            if kind != "unknown":
                return f"{text[:40]} (by the text of its file)"
    return ""


def _bundles(package: "Distribution") -> tuple[str, ...]:
    """What the wheel carries beside its own code, by the names of its libraries."""
    names = {file.name for file in package.files or [] if ".so" in file.name or file.name.endswith((".dylib", ".dll"))}
    return tuple(what for pattern, what in BUNDLED if any(pattern.match(re.split(r"[-.]", name)[0]) for name in names))
