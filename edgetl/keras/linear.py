"""The default recipe's first part: features of the frozen trunk, where to cut, a head in closed form."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgetl.cache import Rows, Space
from edgetl.card import CutScore, EpochRecord
from edgetl.config import Augment, Block, ClassWeights, FeaturePrecision
from edgetl.features.frozen import Filling, FrozenTrunk, fill, keys_of
from edgetl.keras.augment import View
from edgetl.keras.inputs import CachedViews, Part, StageInputs, TrainingImages
from edgetl.keras.schedule import HEAD_STAGE
from edgetl.machine import cores
from edgetl.progress import say, task
from edgetl.transfer import heads
from edgetl.transfer.cuts import MOST_COMPARED, MOST_SCORED, Candidate, score_cuts
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
    """A usable linear model, and what it was chosen among."""

    records: tuple[EpochRecord, ...]  # of the first result and, if it is another, of this one
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
    gallery: Gallery,
    tried: Sequence[Candidate],
    settings: LinearSettings,
    boundary: Block | None,
    seconds: Callable[[], float],
) -> Linear:
    """Choose where to cut, whether varied and mirrored copies help, and fit the head.

    `boundary`: whose activations to keep on the way, for a fine-tuning that will probably want them.
    `seconds`: how long the command has been running.
    """
    images = gallery.images
    some = _sample(images.train.labels, MOST_SCORED, settings.seed)
    whole = len(some) == len(images.train)
    blocks = _blocks_of(tried)
    rows = gallery.averages(blocks, some, [_ORIGINAL], boundary if whole else None)
    trial = _Trial(gallery, some, blocks, settings)
    compared = _sample(trial.labels, MOST_COMPARED, settings.seed)
    with task("comparing places to cut the trunk", len(tried)) as advance:
        cuts = score_cuts(
            tried,
            lambda candidate: trial.features(rows, compared, candidate),
            (trial.labels[compared], images.tuning.labels),
            gallery.trunk.multiplications_to,
            advance,
            threads=cores(),
        )
    candidate = tried[[score.chosen for score in cuts].index(True)]
    first = trial.fit(candidate, (_ORIGINAL,))
    records = [_head_record(first.fit, 1, seconds())]
    say(
        f"first result after {seconds():.0f} s: {candidate.head} head on {' and '.join(candidate.scales)}, "
        f"{100 * first.fit.tuning_accuracy:.1f} % of {len(images.tuning)} tuning images right"
    )
    mirrored, varied = _what_helps(trial, candidate)
    views = views_of(settings.views, settings.augment, settings.seed, mirrored=mirrored)
    last = trial
    if not whole:
        last = _Trial(gallery, np.arange(len(images.train)), _blocks_of([candidate]), settings)
    best = last.fit(candidate, views if varied else (_ORIGINAL,), trial.near(first))
    if whole and best.fit.tuning_loss > first.fit.tuning_loss:
        best = first
    if best is not first:
        records.append(_head_record(best.fit, 2, seconds()))
    return Linear(tuple(records), candidate, cuts, best.scale, best.fit, best.tuning_logits, views, mirrored)


def _head_record(fit: Fit, epoch: int, seconds: float) -> EpochRecord:
    """A head in closed form as one epoch of its stage."""
    return EpochRecord(
        stage=HEAD_STAGE,
        epoch=epoch,
        train_loss=fit.train_loss,
        train_accuracy=fit.train_accuracy,
        tuning_loss=fit.tuning_loss,
        tuning_accuracy=fit.tuning_accuracy,
        seconds=round(seconds, 3),
        elapsed_seconds=round(seconds, 3),
    )


def stage_inputs(gallery: Gallery, views: Sequence[View], boundary: Block) -> StageInputs:
    """Stored activations after `boundary`, for training what is above it."""
    rows = gallery.activations(boundary, views)
    images = len(gallery.images.train)
    tuning = Part(rows, len(views) * images, len(gallery.images.tuning))
    return StageInputs(CachedViews(rows, images, len(views)), tuning)


def map_scale(inputs: StageInputs, width: int) -> FeatureScale:
    """Standardisation per channel of a flattened map of `width` numbers, from the tuning images."""
    some = inputs.tuning[:MOST_SCORED].astype(np.float32)
    channel = heads.standardising(some.reshape(-1, some.shape[-1]))
    positions = width // len(channel.factor)
    return FeatureScale(np.tile(channel.factor, positions), np.tile(channel.offset, positions))


def _sample(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """All positions, or a seeded sample of them in which every class has its share."""
    if len(labels) <= most:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    share = most / len(labels)
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


def _what_helps(trial: "_Trial", candidate: Candidate) -> tuple[bool, bool]:
    """Whether mirrored copies help, and whether varied copies do at all, by the tuning loss."""
    settings = trial.settings
    everything = len(trial.some) == len(trial.gallery.images.train)
    if settings.augment is Augment.OFF or (settings.views == 1 and everything):
        return False, False
    first = trial.fit(candidate, (_ORIGINAL,))
    losses = {"none": first.fit.tuning_loss}
    for name, views in {
        "varied": views_of(2, settings.augment, settings.seed, mirrored=False),
        "mirrored": views_of(3, settings.augment, settings.seed, mirrored=True),
    }.items():
        losses[name] = trial.fit(candidate, views, trial.near(first)).fit.tuning_loss
    mirrored = losses["mirrored"] <= losses["varied"]
    varied = min(losses["mirrored"], losses["varied"]) <= losses["none"]
    say(
        "tuning loss without copies {none:.3f}, with varied copies {varied:.3f}, "
        "with mirrored ones among them {mirrored:.3f}".format(**losses)
    )
    return mirrored, varied


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A head, what its features are scaled by, and its logits [N, classes] for the tuning images."""

    scale: FeatureScale
    fit: Fit
    tuning_logits: Array


@dataclass(frozen=True)
class _Trial:
    """Some training images whose features heads are fitted on."""

    gallery: Gallery
    some: NDArray[np.int64]
    blocks: tuple[Block, ...]  # whose averages are looked up
    settings: LinearSettings
    done: dict[tuple[Candidate, tuple[View, ...]], _Fitted] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of one view."""
        return self.gallery.images.train.labels[self.some]

    def near(self, found: _Fitted) -> range:
        """Which of the penalties to try where one that was found for these images is nearly right."""
        number = heads.penalties(len(self.some)).index(found.fit.penalty)
        return range(max(0, number - 1), number + 2)

    def features(self, rows: Rows, positions: NDArray[np.int64], candidate: Candidate) -> tuple[Array, Array]:
        """What the candidate's head sees, [n, D], of training images as they are and of tuning images."""
        columns = self._columns_of(candidate)
        return _columns(rows, positions, columns), _columns(
            rows, np.arange(len(self.some), len(rows)), columns
        )

    def fit(self, candidate: Candidate, views: tuple[View, ...], penalties: range = range(100)) -> _Fitted:
        """The best head on these views, with one of the penalties of these numbers."""
        if (candidate, views) not in self.done:
            self.done[candidate, views] = self._fit(candidate, views, penalties)
        return self.done[candidate, views]

    def _fit(self, candidate: Candidate, views: tuple[View, ...], penalties: range) -> _Fitted:
        rows, columns = self.gallery.averages(self.blocks, self.some, views), self._columns_of(candidate)
        count = len(views) * len(self.some)
        chosen = np.arange(count)
        most = MOST_NUMBERS // len(columns)
        if count > most:  # a head with so few weights learns nothing more from the rest
            chosen = np.sort(np.random.default_rng(self.settings.seed).permutation(count)[:most])
        train = _columns(rows, chosen, columns)
        tuning = _columns(rows, np.arange(count, len(rows)), columns)
        labels = np.tile(self.labels, len(views))[chosen]
        scale = feature_scale(train)
        scale_in_place(train, scale)
        scale_in_place(tuning, scale)
        fitted = heads.Images(train, labels, image_weights(labels, self.settings.class_weights))
        tuned = heads.alike(tuning, self.gallery.images.tuning.labels)
        classes = int(self.gallery.images.train.labels.max()) + 1
        strengths = heads.penalties(len(self.some))[penalties.start : penalties.stop]
        found = heads.best_fit(fitted, tuned, classes, strengths=strengths)
        return _Fitted(scale, found, found.head.logits(tuning))

    def _columns_of(self, candidate: Candidate) -> NDArray[np.int64]:
        trunk = self.gallery.trunk
        return columns_of(trunk.spec, self.blocks, candidate.head, candidate.scales, trunk.weights.widths)


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
