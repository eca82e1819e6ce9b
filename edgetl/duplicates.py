"""Copies and near copies among images, found from digests and small thumbnails: arrays in, positions out."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetl.progress import task

# Measured on 16 x 16 RGB thumbnails of photos, of emoji at 64 pixels and of Fashion-MNIST at 28. Caught are
# copies as JPEG of quality 75, brightened by 4 levels or (but for the 28 pixels) halved: 99 % and more;
# photos cropped by up to 1 % a side: 95 %. Of Fashion-MNIST's 10,000 test images 26 are taken for copies of
# training images: most are, some are plain trousers. Other prints on a shirt differ by 40 levels in a cell.
LEAST_CORRELATION = 0.985
LARGEST_DIFFERENCE = 26.0  # grey levels of 255, in the cell and channel that differ most
FLAT_CONTRAST = 2.0  # standard deviation in grey levels; below it correlation is that of noise
FLAT_DIFFERENCE = 3.0  # grey levels, in place of `LARGEST_DIFFERENCE` for two flat images
MOST_MATCHES = 50  # of one image with later ones: enough to connect a group, and bounded when all look alike
SMALLEST_SCENE = 20
_ROWS, _COLUMNS = 1024, 8192  # a tile of correlations takes 32 MiB
_PAIRS_AT_ONCE = 8192

Pair = tuple[int, int]


@dataclass(frozen=True)
class Copies:
    """Which images, given by position, repeat each other.

    `exact` pairs have equal bytes, `near` pairs look alike; first < second. `groups` are what both connect.
    `scenes` are groups that look alike by nature, as frames of a fixed camera do; they are no copies, and
    their pairs are not in `near`.
    """

    exact: tuple[Pair, ...]
    near: tuple[Pair, ...]
    groups: tuple[tuple[int, ...], ...]
    scenes: tuple[tuple[int, ...], ...]


def find_copies(digests: Sequence[str], thumbnails: NDArray[np.float32], labels: NDArray[np.int64]) -> Copies:
    """Compare N images by digest and by thumbnail [N, D] float32, 0..255. `labels` [N] only tell scenes."""
    exact = exact_duplicates(digests)
    near = [(left, right) for left, right in near_duplicates(thumbnails) if digests[left] != digests[right]]
    class_sizes = Counter(labels.tolist())
    scenes = [group for group in groups(near) if _is_scene(group, labels, class_sizes)]
    in_scenes = {member for scene in scenes for member in scene}
    near = [pair for pair in near if pair[0] not in in_scenes]
    return Copies(tuple(exact), tuple(near), tuple(groups([*exact, *near])), tuple(scenes))


def exact_duplicates(digests: Sequence[str]) -> list[Pair]:
    """Pairs (first, later) of positions with the same digest."""
    first: dict[str, int] = {}
    pairs = []
    for position, digest in enumerate(digests):
        earlier = first.setdefault(digest, position)
        if earlier != position:
            pairs.append((earlier, position))
    return pairs


def near_duplicates(thumbnails: NDArray[np.float32]) -> list[Pair]:
    """Pairs (i, j), i < j, sorted, of images that look alike; thumbnails [N, D] float32, 0..255.

    Alike: Pearson correlation at least `LEAST_CORRELATION` and no value further apart than
    `LARGEST_DIFFERENCE`; two flat images: no value further apart than `FLAT_DIFFERENCE`. Equal thumbnails
    are paired with the first of them only, and an image with at most `MOST_MATCHES` later ones.
    O(N^2 D): 70,000 images take half a minute on two cores.
    """
    equal = exact_duplicates([row.tobytes() for row in thumbnails])
    distinct = np.setdiff1d(np.arange(len(thumbnails)), [later for _, later in equal])
    different = _alike(thumbnails if not equal else thumbnails[distinct])
    return sorted([*equal, *((int(distinct[i]), int(distinct[j])) for i, j in different)])


def _alike(thumbnails: NDArray[np.float32]) -> list[Pair]:
    """`near_duplicates` of distinct thumbnails, unsorted."""
    count = len(thumbnails)
    unit = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    length = np.linalg.norm(unit, axis=1, keepdims=True)
    unit /= np.maximum(length, 1e-6)
    flat = length[:, 0] < FLAT_CONTRAST * np.sqrt(thumbnails.shape[1])
    unit[flat] = 0
    matches = np.zeros(count, np.int64)
    pairs: list[Pair] = []
    with task("comparing images", count) as advance:
        for top in range(0, count, _ROWS):
            rows = slice(top, top + _ROWS)
            for left in range(top - top % _COLUMNS, count, _COLUMNS):
                columns = slice(left, left + _COLUMNS)
                candidate = unit[rows] @ unit[columns].T >= LEAST_CORRELATION
                candidate |= flat[rows, None] & flat[None, columns]
                candidate[matches[rows] >= MOST_MATCHES] = False
                inside = np.argwhere(np.triu(candidate, k=top - left + 1))
                found = _close(thumbnails, flat, inside + np.array([top, left]))
                np.add.at(matches, found[:, 0], 1)
                pairs.extend((int(i), int(j)) for i, j in found)
            advance(min(_ROWS, count - top))
    return pairs


def _close(
    thumbnails: NDArray[np.float32], flat: NDArray[np.bool_], candidates: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of the candidate pairs ([M, 2], sorted) that differ little; of one image, only the first few."""
    # Where everything looks alike, most candidates pass: there is no need to look at all of them.
    few = candidates[_rank_in_row(candidates[:, 0]) < 4 * MOST_MATCHES]
    close = np.zeros(len(few), np.bool_)
    for start in range(0, len(few), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        rows, columns = few[part].T
        difference = np.abs(thumbnails[rows] - thumbnails[columns]).max(axis=1)
        close[part] = difference <= np.where(flat[rows], FLAT_DIFFERENCE, LARGEST_DIFFERENCE)
    found = few[close]
    return found[_rank_in_row(found[:, 0]) < MOST_MATCHES]


def _rank_in_row(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For sorted row numbers: the how-manieth of its row each entry is, from 0."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def _is_scene(group: Sequence[int], labels: NDArray[np.int64], class_sizes: Counter[int]) -> bool:
    """Whether so much of a class looks alike that this is how the class looks."""
    if len(group) < SMALLEST_SCENE:
        return False
    return any(
        2 * count > class_sizes[label] for label, count in Counter(labels[list(group)].tolist()).items()
    )


def groups(pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
    """Connected components of the pairs, each sorted, ordered by their first member."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for left, right in pairs:
        parent[root(right)] = root(left)
    members: dict[int, list[int]] = defaultdict(list)
    for node in parent:
        members[root(node)].append(node)
    return sorted(tuple(sorted(group)) for group in members.values())
