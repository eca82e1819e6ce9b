"""The default recipe's first part: features of the frozen trunk, where to cut, a head in closed form."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetl.cache import Rows, Space
from edgetl.card import CutScore
from edgetl.config import Augment, Block, ClassWeights, FeaturePrecision
from edgetl.features.frozen import Filling, FrozenTrunk, fill, keys_of
from edgetl.keras.augment import View
from edgetl.keras.inputs import CachedViews, Part, StageInputs, TrainingImages
from edgetl.progress import say, task
from edgetl.transfer import heads
from edgetl.transfer.cuts import MOST_SCORED, Candidate, score_cuts
from edgetl.transfer.heads import Array, FeatureScale, Fit, feature_scale, scale_in_place
from edgetl.transfer.layout import columns_of

MOST_NUMBERS = 2**28  # of float32 features that a head is fitted on: 1 GiB
_ORIGINAL = View(0, Augment.OFF, 0)


@dataclass(frozen=True)
class LinearSettings:
    """What the linear part is told."""

    views: int
    augment: Augment
    class_weights: ClassWeights
    seed: int


@dataclass(frozen=True)
class Linear:
    """The first result: a usable linear model, and what it was chosen among."""

    candidate: Candidate
    cuts: tuple[CutScore, ...]
    scale: FeatureScale
    fit: Fit
    tuning_logits: Array  # [N, classes]
    views: tuple[View, ...]  # that help: what fine-tuning should look at
    mirrored: bool  # whether mirrored copies help


class Gallery:
    """The features of training and tuning images, computed when first asked for."""

    def __init__(self, trunk: FrozenTrunk, images: TrainingImages, open_rows: ExitStack) -> None:
        self.trunk, self.images = trunk, images
        self._open = open_rows

    def averages(
        self,
        blocks: tuple[Block, ...],
        train: NDArray[np.int64],
        views: Sequence[View],
        boundary: Block | None = None,
    ) -> Rows:
        """Rows of the averages of `blocks`: each view of these training images, then the tuning images.

        `boundary`: keep the activations there as well, which costs nothing more in the same pass.
        """
        keys = self._keys(train, views)
        pooled = (blocks, self._rows(self.trunk.pooled_space(blocks), keys))
        maps = None
        if boundary is not None and len(pooled[1].missing) > 0:
            maps = (boundary, self._rows(self.trunk.maps_space(boundary), keys))
        self._fill(Filling(maps, pooled, None), train, views)
        return pooled[1]

    def activations(self, boundary: Block, views: Sequence[View]) -> Rows:
        """Rows of the maps after `boundary`: each view of all training images, then the tuning images.

        An int8 trunk goes on from a lower boundary's, where those are all stored: it rounds them to
        themselves. In fp32 the rounding to float16 would let results depend on what was stored before.
        """
        train = np.arange(len(self.images.train))
        keys = self._keys(train, views)
        rows = self._rows(self.trunk.maps_space(boundary), keys)
        again = self.trunk.precision is FeaturePrecision.INT8 and len(rows.missing) > 0
        source = self._stored_below(boundary, keys) if again else None
        self._fill(Filling((boundary, rows), None, source), train, views)
        return rows

    def _stored_below(self, boundary: Block, keys: Sequence[bytes]) -> tuple[Block, Rows] | None:
        for block in reversed(Block):
            if block < boundary:
                rows = self._rows(self.trunk.maps_space(block), keys)
                if len(rows.missing) == 0:
                    return block, rows
        return None

    def _keys(self, train: NDArray[np.int64], views: Sequence[View]) -> list[bytes]:
        digests = [self.images.train.digests[i] for i in train.tolist()]
        names = [view.name for view in views]
        return [*keys_of(digests, names), *keys_of(self.images.tuning.digests, [_ORIGINAL.name])]

    def _rows(self, space: Space, keys: Sequence[bytes]) -> Rows:
        return self._open.enter_context(self.trunk.cache.rows(space, keys))

    def _fill(self, filling: Filling, train: NDArray[np.int64], views: Sequence[View]) -> None:
        fill(self.trunk, filling, lambda positions: _images_at(self.images, train, views, positions))


def _images_at(
    images: TrainingImages, chosen: NDArray[np.int64], views: Sequence[View], positions: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The pictures behind row numbers: view by view of the chosen training images, then tuning images."""
    pieces = []
    for number in np.unique(positions // len(chosen)):
        inside = positions[positions // len(chosen) == number] - number * len(chosen)
        if number < len(views):
            members = chosen[inside]
            digests = [images.train.digests[i] for i in members.tolist()]
            pieces.append(views[number].of(images.train.pixels[members], digests))
    beyond = positions[positions >= len(views) * len(chosen)] - len(views) * len(chosen)
    if len(beyond) > 0:
        pieces.append(images.tuning.pixels[beyond])
    return np.concatenate(pieces)


def fit_linear(
    gallery: Gallery, tried: Sequence[Candidate], settings: LinearSettings, boundary: Block | None
) -> Linear:
    """Choose where to cut, whether varied and mirrored copies help, and fit the head.

    `boundary`: whose activations to keep on the way, for a fine-tuning that will probably want them.
    """
    images = gallery.images
    some = _scored_images(images, settings.seed)
    whole = len(some) == len(images.train)
    blocks = _blocks_of(tried)
    rows = gallery.averages(blocks, some, [_ORIGINAL], boundary if whole else None)
    trial = _Trial(gallery, some, settings)
    with task("comparing places to cut the trunk", len(tried)) as advance:
        cuts = score_cuts(
            tried,
            lambda candidate: trial.features(rows, blocks, candidate, 1),
            (trial.labels, images.tuning.labels),
            gallery.trunk.spec,
            advance,
        )
    candidate = tried[[score.chosen for score in cuts].index(True)]
    mirrored, varied = _what_helps(trial, blocks, candidate)
    views = views_of(settings.views, settings.augment, settings.seed, mirrored=mirrored)
    shown = views if varied else (_ORIGINAL,)
    if whole:
        rows = gallery.averages(blocks, some, shown)
    else:
        blocks = _blocks_of([candidate])
        some = np.arange(len(images.train))
        rows = gallery.averages(blocks, some, shown)
    final = _Trial(gallery, some, settings)
    scale, fit, logits = final.fit(rows, blocks, candidate, len(shown))
    return Linear(candidate, cuts, scale, fit, logits, views, mirrored)


def stage_inputs(gallery: Gallery, views: Sequence[View], boundary: Block) -> StageInputs:
    """Stored activations after `boundary`, for training what is above it."""
    rows = gallery.activations(boundary, views)
    images = len(gallery.images.train)
    tuning = Part(rows, len(views) * images, len(gallery.images.tuning))
    return StageInputs(CachedViews(rows, images, len(views)), tuning)


def map_scale(inputs: StageInputs, width: int) -> FeatureScale:
    """Standardisation per channel of a flattened map of `width` numbers, from the tuning images."""
    some = inputs.tuning[:MOST_SCORED].astype(np.float32)
    flat = some.reshape(-1, some.shape[-1])
    mean, deviation = flat.mean(axis=0), flat.std(axis=0)
    deviation = np.maximum(deviation, 0.05 * deviation.mean() + 1e-6)
    positions = width // len(mean)
    factor, offset = np.tile(1 / deviation, positions), np.tile(-mean / deviation, positions)
    return FeatureScale(factor.astype(np.float32), offset.astype(np.float32))


def _scored_images(images: TrainingImages, seed: int) -> NDArray[np.int64]:
    """All training images, or a seeded sample of them in which every class has its share."""
    labels = images.train.labels
    if len(labels) <= MOST_SCORED:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    share = MOST_SCORED / len(labels)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.append(random.permutation(members)[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def _blocks_of(tried: Sequence[Candidate]) -> tuple[Block, ...]:
    return tuple(sorted({scale for candidate in tried for scale in candidate.scales}))


def views_of(count: int, augment: Augment, seed: int, *, mirrored: bool) -> tuple[View, ...]:
    """The image itself and varied copies; without mirrored ones, the even numbers."""
    if augment is Augment.OFF:
        return (_ORIGINAL,)
    step = 1 if mirrored else 2
    return (_ORIGINAL, *(View(number, augment, seed) for number in range(step, step * count, step)))


def _what_helps(trial: "_Trial", blocks: tuple[Block, ...], candidate: Candidate) -> tuple[bool, bool]:
    """Whether mirrored copies help, and whether varied copies do at all, by the tuning loss."""
    settings = trial.settings
    everything = len(trial.some) == len(trial.gallery.images.train)
    if settings.augment is Augment.OFF or (settings.views == 1 and everything):
        return False, False
    losses = {}
    for name, views in {
        "none": (_ORIGINAL,),
        "varied": views_of(2, settings.augment, settings.seed, mirrored=False),
        "mirrored": views_of(3, settings.augment, settings.seed, mirrored=True),
    }.items():
        rows = trial.gallery.averages(blocks, trial.some, views)
        losses[name] = trial.fit(rows, blocks, candidate, len(views))[1].tuning_loss
    mirrored = losses["mirrored"] <= losses["varied"]
    varied = min(losses["mirrored"], losses["varied"]) <= losses["none"]
    say(
        "tuning loss without copies {none:.3f}, with varied copies {varied:.3f}, "
        "with mirrored ones among them {mirrored:.3f}".format(**losses)
    )
    return mirrored, varied


@dataclass(frozen=True)
class _Trial:
    """Some training images whose features heads are fitted on."""

    gallery: Gallery
    some: NDArray[np.int64]
    settings: LinearSettings

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of one view."""
        return self.gallery.images.train.labels[self.some]

    @property
    def classes(self) -> int:
        return int(self.gallery.images.train.labels.max()) + 1

    def features(
        self, rows: Rows, blocks: tuple[Block, ...], candidate: Candidate, views: int
    ) -> tuple[Array, Array]:
        """What the candidate's head sees, [n, D], of training images view by view and of tuning images."""
        columns = columns_of(self.gallery.trunk.spec, blocks, candidate.head, candidate.scales)
        train = views * len(self.some)
        return _columns(rows, np.arange(train), columns), _columns(rows, np.arange(train, len(rows)), columns)

    def fit(
        self, rows: Rows, blocks: tuple[Block, ...], candidate: Candidate, views: int
    ) -> tuple[FeatureScale, Fit, Array]:
        """The best head on these views, and its logits for the tuning images."""
        columns = columns_of(self.gallery.trunk.spec, blocks, candidate.head, candidate.scales)
        count = views * len(self.some)
        chosen = np.arange(count)
        most = MOST_NUMBERS // len(columns)
        if count > most:  # a head with so few weights learns nothing more from the rest
            chosen = np.sort(np.random.default_rng(self.settings.seed).permutation(count)[:most])
        train = _columns(rows, chosen, columns)
        tuning = _columns(rows, np.arange(count, len(rows)), columns)
        labels = np.tile(self.labels, views)[chosen]
        scale = feature_scale(train)
        scale_in_place(train, scale)
        scale_in_place(tuning, scale)
        weights = image_weights(labels, self.settings.class_weights)
        tuned = heads.alike(tuning, self.gallery.images.tuning.labels)
        strengths = heads.penalties(len(self.some))
        fitted = heads.Images(train, labels, weights)
        found = heads.best_fit(fitted, tuned, self.classes, strengths=strengths)
        return scale, found, found.head.logits(tuning)


def _columns(rows: Rows, positions: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
    """float32 [n, D], a few rows at a time."""
    taken = np.empty((len(positions), len(columns)), np.float32)
    for start in range(0, len(positions), MOST_SCORED):
        some = positions[start : start + MOST_SCORED]
        taken[start : start + len(some)] = rows[some][:, columns]
    return taken


def image_weights(labels: NDArray[np.int64], kind: ClassWeights) -> Array:
    """One loss weight per image; mean 1. Balanced: each class weighs the same."""
    if kind is ClassWeights.NONE:
        return np.ones(len(labels), np.float32)
    counts = np.bincount(labels)
    return (len(labels) / (np.count_nonzero(counts) * counts[labels])).astype(np.float32)
