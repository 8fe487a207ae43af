"""Damage: of bytes, of DICOM files where it hurts, and of texts; a function of the random numbers that are given."""

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence

Damage = Callable[[random.Random, bytearray, Sequence[bytes]], None]

INTERESTING = (0, 1, 2, 7, 8, 9, 12, 15, 16, 17, 31, 32, 64, 127, 128, 255, 256, 4096, 32767, 32768, 65535)
WIDE = (*INTERESTING, 65536, 2**20, 2**24, 2**27, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
NUMBERS = {  # tags whose values decide how pixels are read: group, element
    "Rows": (0x28, 0x10),
    "Columns": (0x28, 0x11),
    "SamplesPerPixel": (0x28, 0x02),
    "PlanarConfiguration": (0x28, 0x06),
    "BitsAllocated": (0x28, 0x100),
    "BitsStored": (0x28, 0x101),
    "HighBit": (0x28, 0x102),
    "PixelRepresentation": (0x28, 0x103),
    "PixelPaddingValue": (0x28, 0x120),
}
TEXTS = {
    "PhotometricInterpretation": (0x28, 0x04),
    "NumberOfFrames": (0x28, 0x08),
    "WindowCenter": (0x28, 0x1050),
    "WindowWidth": (0x28, 0x1051),
    "RescaleSlope": (0x28, 0x1053),
    "ImagerPixelSpacing": (0x18, 0x1164),
    "Modality": (0x08, 0x60),
    "ImageType": (0x08, 0x08),
    "Manufacturer": (0x08, 0x70),
    "SpecificCharacterSet": (0x08, 0x05),
    "PresentationIntentType": (0x08, 0x68),
}
SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"),
    *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.100"),
)
KINDS = (b"US", b"SS", b"UL", b"OB", b"OW", b"SQ", b"UN", b"DS", b"IS", b"PN", b"UI", b"AT", b"FD", b"CS", b"\0\0")
WORDS = (
    *(
        "null",
        "~",
        "true",
        "-1",
        "0",
        "1e308",
        "1e-320",
        ".nan",
        ".inf",
        "-.inf",
        "9" * 39,
        "9" * 400,
        "0x10",
        "''",
        "[]",
    ),
    *("{}", "[[]]", "{a: 1}", "&a [*a, *a]", "*a", "!!python/object:os.system {}", "!!binary aGk=", "!!set {a, b}"),
    *("<<: *a", "|", ">-", "---", "...", "- ", "? ", ": ", "\t", "#", "%YAML 1.1", "@", "`", "${HOME}", "${", "\ufeff"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "\x00",
        "\ud7ff",
        "\U0001f4a9",
        "a" * 5000,
        "1_000",
        "1:30",
        "2026-01-01",
        "no",
    ),
    *(
        "1",
        "2",
        "3",
        "10",
        "0.5",
        "1e-3",
        "64",
        "[0, 1]",
        "[1, 2, 3]",
        "auto",
        "focal",
        "corn",
        "loss.name",
        "test_efficientnet",
    ),
    *(
        "{float: [0.1, 1.0], scale: log}",
        "{int: [1, 5]}",
        "{choice: [a, b]}",
        "random",
        "tpe",
        "grid",
        "test/qwk",
        "[-1, .nan]",
    ),
)


def mutated(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Bytes with one to four faults anywhere."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        rng.choice(BYTE_DAMAGE)(rng, found, others)
    return bytes(found)


def mutated_dicom(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A DICOM file with faults in its header, its compressed stream, or anywhere."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        rng.choice(DICOM_DAMAGE if rng.random() < 0.7 else BYTE_DAMAGE)(rng, found, others)
    return bytes(found)


def mutated_text(rng: random.Random, text: str, others: Sequence[str] = ()) -> bytes:
    """A text with faults in words and lines; sometimes in bytes, so that it is none."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        rng.choice(LINE_DAMAGE)(rng, lines, others)
    found = "\n".join(lines).encode("utf-8", "surrogatepass")
    return mutated(rng, found) if rng.random() < 0.15 else found


def _place(rng: random.Random, found: bytearray) -> int:
    """Mostly in the first kilobytes, where headers are."""
    size = len(found)
    return rng.randrange(max(1, min(size, 4096) if rng.random() < 0.7 else size))


def _flip(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    for _ in range(rng.choice((1, 1, 4, 32))):
        if found:
            found[_place(rng, found)] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    kind = rng.choice(("<B", "<H", ">H", "<I", ">I"))
    value = rng.choice(WIDE) % (1 << (8 * struct.calcsize(kind)))
    place = _place(rng, found)
    found[place : place + struct.calcsize(kind)] = struct.pack(kind, value)


def _cut(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    del found[rng.randrange(len(found) + 1) if rng.random() < 0.5 else _place(rng, found) :]


def _remove(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    place = _place(rng, found)
    del found[place : place + rng.choice((1, 2, 4, 8, 100, 5000))]


def _insert(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    place = _place(rng, found)
    found[place:place] = rng.choice((rng.randbytes(rng.choice((1, 2, 8, 64))), b"\xff" * 8, b"\0" * 300))


def _repeat(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    place, size = _place(rng, found), rng.choice((4, 16, 256))
    found[place:place] = found[place : place + size] * rng.choice((1, 2, 40))


def _swap(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    one, two, size = _place(rng, found), _place(rng, found), rng.choice((2, 8, 64))
    found[one : one + size], found[two : two + size] = found[two : two + size], found[one : one + size]


def _splice(rng: random.Random, found: bytearray, others: Sequence[bytes]) -> None:
    """The start of one file with the end of another."""
    if others:
        other = rng.choice(others)
        place = _place(rng, found)
        found[place:] = other[_place(rng, bytearray(other[:8192])) :]


BYTE_DAMAGE: tuple[Damage, ...] = (_flip, _overwrite, _overwrite, _cut, _remove, _insert, _repeat, _swap, _splice)


def _element(found: bytearray, tag: tuple[int, int]) -> int:
    """Where a tag stands, in either byte order; -1 if nowhere in the first part of the file."""
    little = found.find(struct.pack("<HH", *tag), 128, 65536)
    return little if little >= 0 else found.find(struct.pack(">HH", *tag), 128, 65536)


def _number(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    """Another number under a tag that says how pixels are to be read."""
    at = _element(found, NUMBERS[rng.choice(list(NUMBERS))])
    if at >= 0:
        found[at + 8 : at + 10] = struct.pack("<H", rng.choice(INTERESTING))


def _text(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    """Another text under a tag, as long as the one before."""
    at = _element(found, TEXTS[rng.choice(list(TEXTS))])
    if at >= 0:
        size = int.from_bytes(found[at + 6 : at + 8], "little") or int.from_bytes(found[at + 4 : at + 6], "little")
        texts = (
            b"MONOCHROME1",
            b"RGB",
            b"PALETTE COLOR",
            b"1e400",
            b"nan",
            b"-5",
            b"\xff\xfe",
            b"2\\2\\2",
            b"ISO_IR 192",
        )
        size = min(size, 64)
        found[at + 8 : at + 8 + size] = rng.choice(texts)[:size].ljust(size)


def _kind(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    """Another value representation for an element."""
    tags = [*NUMBERS.values(), *TEXTS.values(), (0x08, 0x9215), (0x5200, 0x9229), (0x54, 0x220), (0x02, 0x10)]
    at = _element(found, rng.choice(tags))
    if at >= 0:
        found[at + 4 : at + 6] = rng.choice(KINDS)


def _length(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    """Another length for an element or the pixel data."""
    at = _element(found, rng.choice([*NUMBERS.values(), *TEXTS.values(), (0x7FE0, 0x10), (0x02, 0x00)]))
    at = found.find(b"\xe0\x7f\x10\x00", 128) if at < 0 or rng.random() < 0.3 else at
    if at >= 0:
        kind, place = rng.choice((("<H", 6), ("<I", 4), ("<I", 8)))
        found[at + place : at + place + struct.calcsize(kind)] = struct.pack(
            kind, rng.choice(WIDE) % (1 << 8 * struct.calcsize(kind))
        )


def _syntax(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    """Another transfer syntax, in the room that the first one has."""
    at = found.find(b"\x02\x00\x10\x00UI", 128, 4096)
    if at >= 0:
        size = int.from_bytes(found[at + 6 : at + 8], "little")
        new = rng.choice(SYNTAXES).encode()
        new += b"\0" * (len(new) % 2)
        if rng.random() < 0.5:
            new = new[:size].ljust(size, b"\0")
        found[at + 6 : at + 8 + size] = struct.pack("<H", len(new)) + new


def _stream(rng: random.Random, found: bytearray, others: Sequence[bytes]) -> None:
    """Faults in the first bytes of the compressed stream: its markers, sizes and tables."""
    starts = [
        at for mark in (b"\xff\x4f\xff\x51", b"\xff\xd8\xff", b"\xfe\xff\x00\xe0") if (at := found.find(mark, 300)) >= 0
    ]
    if starts:
        at = rng.choice(starts)
        part = bytearray(found[at : at + 256])
        for _ in range(rng.choice((1, 2, 8))):
            rng.choice((_flip, _overwrite, _remove, _insert))(rng, part, others)
        found[at : at + 256] = part


def _body(rng: random.Random, found: bytearray, others: Sequence[bytes]) -> None:
    """Faults anywhere in the compressed stream, which keeps its length and its end mark: decoders get to see it."""
    at = found.find(b"\xfe\xff\x00\xe0", 300)
    at = found.find(b"\xfe\xff\x00\xe0", at + 4) + 8 if at >= 0 else -1
    size = len(found) - at - 16
    if at < 8 or size < 8:
        return
    part = bytearray(found[at : at + size])
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        rng.choice((_flip, _overwrite, _remove, _insert, _repeat, _swap))(rng, part, others)
    found[at : at + size] = bytes(part[:size]).ljust(size, b"\0")


def _larger(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    """Header and stream agree on a size that the stream cannot fill."""
    rows, cols = rng.choice(((20_000, 6_000), (11_000, 11_000), (60_000, 60_000), (1, 20_000), (1, 1)))
    at = found.find(b"\xff\x4f\xff\x51", 300)
    if at >= 0:
        sizes = struct.pack(">IIII", cols, rows, 0, 0)
        found[at + 8 : at + 40] = sizes + sizes
    for mark in (b"\xff\xc3", b"\xff\xc0", b"\xff\xf7"):
        at = found.find(mark, 300, 65536)
        if at >= 0:
            found[at + 5 : at + 9] = struct.pack(">HH", rows, cols)
    for tag, value in ((NUMBERS["Rows"], rows), (NUMBERS["Columns"], cols)):
        at = _element(found, tag)
        if at >= 0:
            found[at + 8 : at + 10] = struct.pack("<H", value)


def _nested(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    """Sequences in sequences, deeper than a reader should follow."""
    depth = rng.choice((3, 50, 2000, 20_000))
    at = _element(found, TEXTS["Modality"])
    item = struct.pack("<HH2sHI", 0x54, 0x220, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    if at >= 0:
        found[at:at] = item * depth


@functools.cache
def _zeros(size: int) -> bytes:
    """Many zeros, deflated, without a header."""
    packer, out, block = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS), io.BytesIO(), b"\0" * 2**24
    for _ in range(size // len(block)):
        out.write(packer.compress(block))
    return out.getvalue() + packer.flush()


def _bomb(rng: random.Random, found: bytearray, _others: Sequence[bytes]) -> None:
    """A deflated file that grows a thousandfold."""
    if rng.random() < 0.9:  # dear to judge where nothing stops it
        return
    _named(found, b"1.2.840.10008.1.2.1.99")
    size = 144 + int.from_bytes(found[140:144], "little")
    found[size:] = _zeros(2**31 - 2**24)


def _named(found: bytearray, syntax: bytes) -> None:
    at = found.find(b"\x02\x00\x10\x00UI", 128, 4096)
    if at >= 0:
        size = int.from_bytes(found[at + 6 : at + 8], "little")
        found[at + 6 : at + 8 + size] = struct.pack("<H", len(syntax)) + syntax
        whole = int.from_bytes(found[140:144], "little") + len(syntax) - size
        found[140:144] = struct.pack("<I", whole % 2**32)


DICOM_DAMAGE: tuple[Damage, ...] = (
    *(_number, _number, _number, _text, _kind, _length, _length, _syntax),
    *(_body, _body, _body, _stream, _stream, _larger, _nested, _bomb),
)

TextDamage = Callable[[random.Random, list[str], Sequence[str]], None]


def _line_at(rng: random.Random, lines: list[str]) -> int:
    if not lines:
        lines.append("")
    return rng.randrange(len(lines))


def _drop_line(rng: random.Random, lines: list[str], _others: Sequence[str]) -> None:
    del lines[_line_at(rng, lines)]


def _double_line(rng: random.Random, lines: list[str], _others: Sequence[str]) -> None:
    at = _line_at(rng, lines)
    lines.insert(at, lines[at])


def _indent(rng: random.Random, lines: list[str], _others: Sequence[str]) -> None:
    at = _line_at(rng, lines)
    lines[at] = rng.choice((" " + lines[at], "  " + lines[at], lines[at].lstrip(), "\t" + lines[at]))


def _value(rng: random.Random, lines: list[str], _others: Sequence[str]) -> None:
    """Another value behind the colon of a line."""
    at = _line_at(rng, lines)
    key, mark, _ = lines[at].partition(":")
    lines[at] = f"{key}{mark} {rng.choice(WORDS)}" if mark else rng.choice(WORDS)


def _word(rng: random.Random, lines: list[str], _others: Sequence[str]) -> None:
    """Another word somewhere in a line."""
    at = _line_at(rng, lines)
    words = lines[at].split(" ")
    words[rng.randrange(len(words))] = rng.choice(WORDS)
    lines[at] = " ".join(words)


def _letter(rng: random.Random, lines: list[str], _others: Sequence[str]) -> None:
    at = _line_at(rng, lines)
    place = rng.randrange(len(lines[at]) + 1)
    letter = rng.choice("{}[]:,-#&*!|>'\"%@`?\\ \t0aZ_.\u00e9")
    lines[at] = lines[at][:place] + letter + lines[at][place + rng.randrange(2) :]


def _borrow(rng: random.Random, lines: list[str], others: Sequence[str]) -> None:
    """Lines of another file, at any depth."""
    if others:
        other = rng.choice(others).splitlines()
        start = rng.randrange(max(1, len(other)))
        lines[_line_at(rng, lines) : 0] = other[start : start + rng.choice((1, 3, 10))]


def _deep(rng: random.Random, lines: list[str], _others: Sequence[str]) -> None:
    """Brackets in brackets, or one key in another."""
    depth = rng.choice((3, 20, 40, 500, 5000))
    at = _line_at(rng, lines)
    left, right = rng.choice((("[", "]"), ("{a: ", "}"), ("[{a: ", "}]")))
    key = lines[at].partition(":")[0]
    lines[at] = f"{key}: {left * depth}1{right * depth}"


def _wide(rng: random.Random, lines: list[str], _others: Sequence[str]) -> None:
    """A list of many entries, or many keys."""
    at, count = _line_at(rng, lines), rng.choice((100, 5000))
    key = lines[at].partition(":")[0]
    lines[at] = f"{key}: [{', '.join(['1'] * count)}]"


LINE_DAMAGE: tuple[TextDamage, ...] = (
    *(_drop_line, _double_line, _indent, _value, _value, _value, _word, _word, _letter, _letter, _borrow, _deep, _wide),
)
