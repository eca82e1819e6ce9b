"""`edgetl cache`: what the cache of activations holds, and removing from it what no process uses."""

import os
from dataclasses import replace
from pathlib import Path

from edgetl.cache import DEFAULT_LIMIT_BYTES, ActivationCache, default_folder, parse_size
from edgetl.config import CacheConfig
from edgetl.errors import StorageError, UsageError
from edgetl.results import CacheUsage


def cache(config: CacheConfig) -> CacheUsage:
    """Clean the cache as asked, then look at it. Raises `UsageError` and `StorageError`."""
    if config.limit is not None and config.clear:
        raise UsageError(
            "--clear and --limit contradict each other.", "Give --clear to remove all, or --limit."
        )
    if config.older_than is not None and not config.clear:
        raise UsageError("--older-than says what --clear removes.", "Add --clear.")
    limit_bytes = DEFAULT_LIMIT_BYTES if config.limit is None else parse_size(config.limit)
    opened = ActivationCache(config.folder or default_folder(), limit_bytes)
    _check(opened.folder)
    freed_bytes = 0
    if config.clear:
        freed_bytes = opened.clear(config.older_than)
    elif config.limit is not None:
        freed_bytes = opened.shrink()
    return replace(opened.usage(), freed_bytes=freed_bytes)


def _check(folder: Path) -> None:
    """Refuse what would look like an empty cache and is none."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", "Name the folder of a cache.")
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise StorageError(
            f"{folder} cannot be read.", "Change its permissions, or name another with --folder."
        )
