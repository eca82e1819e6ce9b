"""How many decoders there are, and what one of them may take."""

from dataclasses import dataclass

from edgetl.errors import UsageError
from edgetl.machine import cores, memory_gib

_MIB = 2**20
_PARENT_BYTES = 320 * _MIB  # interpreter, engine, a small model, Parquet
_WORKER_BYTES = 64 * _MIB  # a decoder that does nothing
_PIXELS_BYTES = 64 * _MIB  # shared memory
_MOST_BYTES = 1024 * _MIB  # for one image: enough for 50 million pixels of any kind
_ENOUGH_BYTES = 400 * _MIB  # for 50 million pixels of the usual kinds
_LEAST_BYTES = 128 * _MIB
_SHARE_OF_MACHINE = 0.75
_MOST_BATCHES = 16  # decoded ahead


@dataclass(frozen=True)
class Limits:
    """Decoder processes, and what each may take for one image."""

    workers: int
    decoder_bytes: int


def limits_of(memory_bytes: int | None, workers: int | None, decoder_bytes: int | None = None) -> Limits:
    """Divide memory: as many decoders as there are CPUs while each has enough.

    `decoder_bytes` is what a job that is taken up again began with. Raises `UsageError` where memory is too
    small for a single one.
    """
    available = memory_bytes or int(memory_gib() * 2**30 * _SHARE_OF_MACHINE) or 2**31
    rest = available - _PARENT_BYTES - _PIXELS_BYTES
    most = workers or cores()
    enough = (decoder_bytes or _ENOUGH_BYTES) + _WORKER_BYTES
    count = min(most, max(rest // enough, 1))
    each = decoder_bytes or min(rest // count - _WORKER_BYTES, _MOST_BYTES)
    if each < _LEAST_BYTES or (memory_bytes is not None and count * (each + _WORKER_BYTES) > rest):
        needed = _PARENT_BYTES + _PIXELS_BYTES + (decoder_bytes or _LEAST_BYTES) + _WORKER_BYTES
        raise UsageError(
            f"{available // _MIB} MiB of memory are too few for decoding.",
            f"Give at least --memory {needed // _MIB}MiB.",
        )
    return Limits(count, each)


def slots_of(batch: int, image_bytes: int) -> int:
    """Images in shared memory: whole batches, at least 2, within its share of memory where possible."""
    return batch * max(2, min(_MOST_BATCHES, _PIXELS_BYTES // (batch * image_bytes)))
