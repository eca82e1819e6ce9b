"""The file that tells which machines train together. No TensorFlow: a bad file is refused at once."""

import re
from dataclasses import dataclass
from pathlib import Path

from edgetl.errors import UsageError
from edgetl.records import RecordError, from_json

_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", re.ASCII)
_EXAMPLE = 'Write {"workers": ["10.0.0.1:2222", "10.0.0.2:2222"], "index": 0}; index: which of them this is.'


@dataclass(frozen=True)
class Workers:
    """host:port of all machines that train together, and which of them this one is."""

    workers: tuple[str, ...]
    index: int  # 0 decides what all do


def read_workers(path: Path) -> Workers:
    """Read {"workers": ["10.0.0.1:2222", "10.0.0.2:2222"], "index": 0}. Raises `UsageError`."""
    try:
        read = from_json(Workers, path.read_bytes())
    except (OSError, RecordError) as error:
        raise UsageError(f"The workers file {path} cannot be used: {error}.", _EXAMPLE) from error
    wrong = [address for address in read.workers if not _is_address(address)]
    if wrong:
        raise UsageError(f"The workers file {path} has {wrong[0]!r}, which is not host:port.", _EXAMPLE)
    if len(set(read.workers)) < max(2, len(read.workers)):
        raise UsageError(
            f"The workers file {path} must name two workers or more, none of them twice.", _EXAMPLE
        )
    if not 0 <= read.index < len(read.workers):
        last = len(read.workers) - 1
        raise UsageError(
            f"The workers file {path} has index {read.index}.", f"Give each worker its own, 0 to {last}."
        )
    return read


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 1 << 16
