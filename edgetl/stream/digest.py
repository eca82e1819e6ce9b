"""One number for all rows in their order, that does not depend on how they were cut into parts."""

import hashlib
import json
from array import array
from collections.abc import Sequence

from edgetl.rows import COLUMNS, Extra, Row


def rows_digest(first: int, rows: Sequence[Row]) -> str:
    """The sum modulo 2^256 of SHA-256(position, row), hexadecimal; `first` is the position of the first row.

    Sums of disjoint parts add up to the sum of all, whoever made them and in whatever order (Bellare and
    Micciancio 1997, AdHASH; here it guards against accidents, not against forgers).
    """
    total = sum(_row_number(position, row) for position, row in enumerate(rows, first))
    return f"{total % 2**256:064x}"


def _row_number(position: int, row: Row) -> int:
    text = json.dumps([position, *(row[name] for name in COLUMNS)])
    digest = hashlib.sha256(text.encode("ascii"))
    for extra in Extra:
        values = row.get(extra)
        if values is not None:
            digest.update(extra.encode() + array("f", values).tobytes())
    return int.from_bytes(digest.digest(), "big")
