"""The zip archives of torch. None of their files is compressed, so that the content can be mapped in place."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable
from typing import BinaryIO

from .stored import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
SAVE_AGAIN = "load it with torch and save it again with torch.save(state_dict, path)"
ALIGNMENT = 64  # of the values in the file, as in torch
ZIP64_FROM = 1 << 30  # below the limit of zip, so that the size of the header that zipfile writes is known beforehand


def read_records(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Return name -> (byte, length) of an archive's files. Nothing is unpacked.

    Raises CheckpointError for a damaged archive, and for a file that is compressed, encrypted or in it twice.
    """
    size = file.seek(0, io.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise CheckpointError(f"its zip archive is cut off or damaged ({error}): copy or download it again") from None
    records: dict[str, tuple[int, int]] = {}
    for entry in entries:
        name = entry.orig_filename
        if name in records:
            raise CheckpointError(f"its zip archive holds {name!r} twice")
        if entry.flag_bits & 0x1:
            raise CheckpointError(f"{name!r} in its zip archive is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise CheckpointError(f"{name!r} in its zip archive is compressed, which torch does not do: {SAVE_AGAIN}")
        place = _place(file, entry, size)
        if place + entry.file_size > size:
            raise CheckpointError(f"{name!r} in its zip archive ends outside of the file: copy or download it again")
        records[name] = place, entry.file_size
    return records


def _place(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> int:
    """Return the byte at which an entry's content begins, from the header before it."""
    if not 0 <= entry.header_offset < size:
        raise CheckpointError(f"{entry.orig_filename!r} in its zip archive is outside of the file")
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != ZIP_MAGIC:
        raise CheckpointError(f"{entry.orig_filename!r} in its zip archive is not where the archive says")
    num_name, num_extra = struct.unpack("<HH", header[26:])
    name = file.read(num_name).decode("utf-8" if entry.flag_bits & 0x800 else "cp437", "replace")
    if name != entry.orig_filename:
        raise CheckpointError(f"{entry.orig_filename!r} in its zip archive is called {name!r} where it begins")
    return entry.header_offset + 30 + num_name + num_extra


def content_of(file: BinaryIO, record: tuple[int, int], most: int) -> bytes:
    """Return the bytes of a small file of the archive. Raises CheckpointError if there are more than `most`."""
    place, length = record
    if length > most:
        raise CheckpointError(f"the part at byte {place} would have {length} bytes, at most {most} are read")
    file.seek(place)
    return file.read(length)


def write_record(archive: zipfile.ZipFile, name: str, content: Iterable[bytes | memoryview], length: int) -> None:
    """Write one file of the archive so that its content begins at a multiple of ALIGNMENT."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    is_large = length >= ZIP64_FROM
    start = archive.fp.tell() + 30 + len(entry.filename) + (20 if is_large else 0) + 4
    num_padding = -start % ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", num_padding) + b"Z" * num_padding
    with archive.open(entry, "w", force_zip64=is_large) as record:
        for part in content:
            record.write(part)
