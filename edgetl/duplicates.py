"""Copies and near copies among images, found from digests and small thumbnails: arrays in, positions out."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

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
_LOOKED_AT = 4 * MOST_MATCHES  # where all looks alike, there is no need to look closely at all of it
_ROWS, _COLUMNS = 1024, 8192  # a tile of correlations takes 32 MiB
_COLUMNS_AT_ONCE = 1024  # of a tile, looked at together: where everything is alike, that takes 100 MiB
_PAIRS_AT_ONCE = 4096
_IMAGES_AT_ONCE = 4096
# Numbers that stand for a thumbnail. With so many, an image of Fashion-MNIST has to be compared in full with
# 12 of 70,000 others; with half as many, with 33.
_SKETCH = 64
_SKETCH_ERROR = 1e-3  # far above what float32 rounds
_FEW = 1 / 256  # of all pairs; when there are more, one matrix product of all is faster

Pair = tuple[int, int]


@dataclass(frozen=True)
class Copies:
    """Which images, given by position, repeat each other.

    `exact` pairs have equal bytes, `near` pairs look alike; first < second. `groups` are what both connect.
    `scenes` are groups that look alike by nature, as frames of a fixed camera do; they are no copies, and
    their pairs are not in `near`.
    """

    exact: tuple[Pair, ...]
    near: NDArray[np.int64]  # [M, 2], sorted; an array, as there may be 50 for each image
    groups: tuple[tuple[int, ...], ...]
    scenes: tuple[tuple[int, ...], ...]


def find_copies(digests: Sequence[str], thumbnails: NDArray[np.uint8], labels: NDArray[np.int64]) -> Copies:
    """Compare N images by digest and by thumbnail [N, D] uint8. `labels` [N] only tell scenes."""
    exact = exact_duplicates(digests)
    first = np.arange(len(digests))
    for earlier, later in exact:
        first[later] = earlier
    near = near_duplicates(thumbnails)
    near = near[first[near[:, 0]] != first[near[:, 1]]]
    class_sizes = Counter(labels.tolist())
    scenes = [group for group in groups(_each(near)) if _is_scene(group, labels, class_sizes)]
    in_scenes = np.array([member for scene in scenes for member in scene], np.int64)
    near = near[~np.isin(near[:, 0], in_scenes)]
    return Copies(tuple(exact), near, tuple(groups(chain(exact, _each(near)))), tuple(scenes))


def _each(pairs: NDArray[np.int64]) -> Iterator[Pair]:
    """The pairs [M, 2] one by one: a list of all would take ten times the memory."""
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        yield from ((left, right) for left, right in pairs[start : start + _PAIRS_AT_ONCE].tolist())


def exact_duplicates(digests: Sequence[str | bytes]) -> list[Pair]:
    """Pairs (first, later) of positions with the same digest."""
    first: dict[str | bytes, int] = {}
    pairs = []
    for position, digest in enumerate(digests):
        earlier = first.setdefault(digest, position)
        if earlier != position:
            pairs.append((earlier, position))
    return pairs


def near_duplicates(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pairs i < j [M, 2], sorted, of images that look alike; thumbnails [N, D] uint8, D at most 1024.

    Alike: Pearson correlation at least `LEAST_CORRELATION` and no value further apart than
    `LARGEST_DIFFERENCE`; two flat images: no value further apart than `FLAT_DIFFERENCE`. Equal thumbnails
    are paired with the first of them only, and an image with at most `MOST_MATCHES` later ones of each
    `_COLUMNS` images, and with no more when it has so many. The answer does not depend on the machine.

    O(N^2), but only sketches of the thumbnails are all compared: correlation is at most the product of two
    images' parts in a subspace, plus the product of the lengths of what the subspace leaves out.
    """
    equal = exact_duplicates([hashlib.sha256(row).digest() for row in thumbnails])
    distinct = np.setdiff1d(np.arange(len(thumbnails)), [later for _, later in equal])
    different = distinct[_alike(thumbnails if not equal else thumbnails[distinct])]
    pairs = np.concatenate([np.array(equal, np.int64).reshape(-1, 2), different])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


@dataclass(frozen=True)
class _Gallery:
    """N distinct thumbnails and what comparing them takes."""

    thumbnails: NDArray[np.uint8]  # [N, D]
    total: NDArray[np.float64]  # [N] sum of `_centred`; D times it, and its square, are exact
    length: NDArray[np.float64]  # [N] standard deviation times D
    flat: NDArray[np.bool_]  # [N]
    sketch: NDArray[np.float32]  # [N, S] products of two rows are no less than the correlation; flat: 0


def _alike(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """`near_duplicates` of distinct thumbnails as [M, 2], unsorted."""
    count = len(thumbnails)
    gallery = _measure(thumbnails)
    matches = np.zeros(count, np.int64)
    pairs = [np.empty((0, 2), np.int64)]
    with task("comparing images", count) as advance:
        for top in range(0, count, _ROWS):
            for left in range(top - top % _COLUMNS, count, _COLUMNS):
                rows = top + np.flatnonzero(matches[top : top + _ROWS] < MOST_MATCHES)
                columns = np.arange(max(top, left), min(left + _COLUMNS, count))
                found = _search(gallery, rows, columns)
                np.add.at(matches, found[:, 0], 1)
                pairs.append(found)
            advance(min(_ROWS, count - top))
    return np.concatenate(pairs)


def _measure(thumbnails: NDArray[np.uint8]) -> _Gallery:
    count, values = thumbnails.shape
    basis = _basis(thumbnails)
    total, length = np.empty(count), np.empty(count)
    sketch = np.zeros((count, _SKETCH), np.float32)
    for start in range(0, count, _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        centred = _centred(thumbnails[part])
        total[part] = centred.sum(axis=1, dtype=np.float64)
        squares = np.einsum("nd,nd->n", centred, centred).astype(np.float64)
        length[part] = np.sqrt(values * squares - total[part] ** 2)
        unit = _unit(centred)
        inside = unit @ basis
        outside = 1 - np.einsum("ns,ns->n", inside, inside)
        sketch[part, : basis.shape[1]] = inside
        sketch[part, -1] = np.sqrt(np.maximum(outside, 0))
    flat = length < FLAT_CONTRAST * values
    sketch[flat] = 0
    return _Gallery(thumbnails, total, length, flat, sketch)


def _basis(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Orthonormal columns [D, S - 1] (fewer when D is) that hold most of what images differ in.

    Subspace iteration on a sample. Halko, Martinsson, Tropp, "Finding structure with randomness", 2011, 4.4.
    """
    sample = _unit(_centred(thumbnails[:: len(thumbnails) // 2048 + 1]))
    values = thumbnails.shape[1]
    shape = (values, min(_SKETCH - 1, values))
    basis: NDArray[np.float32] = np.random.default_rng(0).standard_normal(shape, np.float32)
    for _ in range(2):
        basis = np.linalg.qr(sample.T @ (sample @ basis)).Q
    return basis


def _centred(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Values around 0, small enough for float32 to add 1024 products of two without rounding."""
    return thumbnails.astype(np.float32) - 128


def _unit(centred: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of mean 0 and length 1."""
    unit: NDArray[np.float32] = centred - centred.mean(axis=1, keepdims=True)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
    return unit


def _search(gallery: _Gallery, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs [M, 2], sorted, of a row and a later column that are alike; of each row, only the first few."""
    likeness = gallery.sketch[rows] @ gallery.sketch[columns].T
    seen = np.zeros(len(rows), np.int64)
    found = [np.empty((0, 2), np.int64)]
    for left in range(0, len(columns), _COLUMNS_AT_ONCE):
        part = columns[left : left + _COLUMNS_AT_ONCE]
        candidate = likeness[:, left : left + len(part)] >= LEAST_CORRELATION - _SKETCH_ERROR
        if gallery.flat[rows].any():
            candidate |= gallery.flat[rows, None] & gallery.flat[part]
        if part[0] <= rows.max(initial=0):
            candidate &= rows[:, None] < part
        candidate[seen >= _LOOKED_AT] = False
        correlated = _correlated(gallery, rows, part, candidate)
        seen += np.bincount(np.searchsorted(rows, correlated[:, 0]), minlength=len(rows))
        found.append(correlated)
    pairs = np.concatenate(found)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    few = pairs[_rank_in_row(pairs[:, 0]) < _LOOKED_AT]
    close = few[_differ_little(gallery, few)]
    return close[_rank_in_row(close[:, 0]) < MOST_MATCHES]


def _correlated(
    gallery: _Gallery,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    candidate: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Those pairs [M, 2] of the candidates [rows, columns] that do correlate, or are both flat."""
    row, column = np.divmod(np.flatnonzero(candidate), len(columns))
    i, j = rows[row], columns[column]
    if len(i) < _FEW * candidate.size:
        products = np.concatenate(
            [np.empty(0, np.float32), *(_products(gallery.thumbnails, *piece) for piece in _pieces(i, j))]
        )
    else:
        left, right = _centred(gallery.thumbnails[rows]), _centred(gallery.thumbnails[columns])
        products = (left @ right.T)[candidate]
    covariance = (
        gallery.thumbnails.shape[1] * products.astype(np.float64) - gallery.total[i] * gallery.total[j]
    )
    alike = covariance >= LEAST_CORRELATION * gallery.length[i] * gallery.length[j]
    either, both = gallery.flat[i] | gallery.flat[j], gallery.flat[i] & gallery.flat[j]
    return np.stack([i, j], axis=1)[np.where(either, both, alike)]


def _products(
    thumbnails: NDArray[np.uint8], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float32]:
    products: NDArray[np.float32] = np.einsum(
        "nd,nd->n", _centred(thumbnails[left]), _centred(thumbnails[right])
    )
    return products


def _differ_little(gallery: _Gallery, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether no value of two thumbnails is far from the other, for each of the pairs [M, 2]."""
    close = [np.empty(0, np.bool_)]
    for i, j in _pieces(pairs[:, 0], pairs[:, 1]):
        left, right = gallery.thumbnails[i], gallery.thumbnails[j]
        difference = (np.maximum(left, right) - np.minimum(left, right)).max(axis=1)
        close.append(difference <= np.where(gallery.flat[i], FLAT_DIFFERENCE, LARGEST_DIFFERENCE))
    return np.concatenate(close)


def _pieces(
    left: NDArray[np.int64], right: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        yield left[start : start + _PAIRS_AT_ONCE], right[start : start + _PAIRS_AT_ONCE]


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


def groups(pairs: Iterable[Pair]) -> list[tuple[int, ...]]:
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
