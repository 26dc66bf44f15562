"""Bytes of the published file layouts to arrays: idx (MNIST's) and CIFAR's records.

Pure functions: they read no file, know no data set, and raise nothing but `DataError`.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from snn2chip.errors import DataError

CIFAR_PIXELS = 3 * 32 * 32


def gunzip(raw: bytes, where: str, limit: int) -> bytes:
    """Unpack gzip bytes, refusing to unpack more than `limit` bytes.

    Raises:
        DataError: not gzip, truncated, damaged or larger than `limit`; names `where`.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
            content = packed.read(limit + 1)
    except EOFError as error:
        raise DataError(
            f"'{where}' is truncated: the gzip data stops after {len(raw):,} bytes without its end mark; "
            "fetch the file again"
        ) from error
    except (OSError, zlib.error) as error:
        raise DataError(f"'{where}' is not sound gzip data ({error}); fetch the file again") from error
    if len(content) > limit:
        raise DataError(f"'{where}' unpacks to more than {limit:,} bytes, its limit; fetch the file again")
    return content


def idx_array(content: bytes, where: str, dims: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes with `dims` dimensions; a read-only view of `content`.

    Raises:
        DataError: wrong magic number, an empty dimension, or a size other than the header promises.
    """
    head = 4 + 4 * dims
    if len(content) < head:
        raise DataError(
            f"'{where}' is truncated: {len(content)} bytes, its idx header alone takes {head}; fetch it again"
        )
    magic = int.from_bytes(content[:4], "big")
    expected = 0x0800 + dims  # type 8 is unsigned byte
    if magic != expected:
        raise DataError(
            f"'{where}' has the idx magic number {magic:#010x}, expected {expected:#010x} "
            f"(unsigned bytes, {dims} dimensions); it is another file or damaged"
        )
    shape = struct.unpack(f">{dims}I", content[4:head])
    size = head + math.prod(shape)
    if len(content) != size:
        state = "truncated" if len(content) < size else "too long"
        raise DataError(
            f"'{where}' is {state}: its header says {' x '.join(map(str, shape))}, so {size:,} bytes, "
            f"but it has {len(content):,}; fetch it again"
        )
    if 0 in shape:
        raise DataError(f"'{where}' is empty: its header says {' x '.join(map(str, shape))}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def cifar_records(
    content: bytes, where: str, *, labels: tuple[tuple[str, int], ...], limit: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Split CIFAR's binary records: label bytes, then 3,072 bytes of red, green and blue planes.

    Args:
        labels: name and number of classes of each label byte: CIFAR-10 has one, CIFAR-100 two.
        limit: most records a published file has.

    Returns:
        Images (N, 3, 32, 32) and the *last* label (N,), as views of `content`.

    Raises:
        DataError: the size is no multiple of a record, zero or over `limit`, or a label is out of range.
    """
    size = CIFAR_PIXELS + len(labels)
    if not content:
        raise DataError(f"'{where}' is empty; fetch it again")
    count, rest = divmod(len(content), size)
    if rest:
        raise DataError(
            f"'{where}' has {len(content):,} bytes, not a multiple of {size:,} (one record): "
            f"{count:,} records and {rest:,} bytes over; it is truncated or another file, fetch it again"
        )
    if count > limit:
        raise DataError(f"'{where}' holds {count:,} records, the published file at most {limit:,}; fetch it again")
    rows = np.frombuffer(content, np.uint8).reshape(count, size)
    for column, (name, classes) in enumerate(labels):
        wrong = np.flatnonzero(rows[:, column] >= classes)
        if wrong.size:
            raise DataError(
                f"'{where}': record {wrong[0]:,} has {name} {rows[wrong[0], column]}, the largest is "
                f"{classes - 1}; the file is damaged or of another data set"
            )
    return rows[:, len(labels) :].reshape(count, 3, 32, 32), rows[:, len(labels) - 1]
