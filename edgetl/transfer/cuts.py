"""Where to cut the trunk: linear heads on every candidate's features, compared on the tuning images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from edgetl.card import CutScore, InputSpec
from edgetl.config import Block, Head
from edgetl.transfer.heads import (
    Array,
    Fit,
    Labels,
    alike,
    best_fit,
    feature_scale,
    one_thread_each,
    scale_in_place,
)
from edgetl.transfer.layout import parts_of
from edgetl.vgg16 import block_below

MOST_SCORED = 4000  # images; enough to tell choices apart, and seconds instead of minutes
MOST_COMPARED = 1000  # that a head is fitted on for each of many candidates: tuning images tell them apart
LOWEST_CUT = Block.BLOCK3  # below it features are too simple to be worth scoring unless the user asks
LOWEST_TUNED_CUT = Block.BLOCK4  # where the whole trunk is trained, which a linear head cannot foresee


@dataclass(frozen=True)
class Candidate:
    """A trunk that ends after `cut`, and what the head sees of it."""

    cut: Block
    head: Head  # gap, max or grid
    scales: tuple[Block, ...]  # ascending; the last is the cut


def candidates(
    spec: InputSpec,
    cut: Block | None,
    head: Head | None,
    scales: int | None,
    deepest: Block,
    *,
    lowest: Block = LOWEST_CUT,
) -> tuple[Candidate, ...]:
    """All that the settings leave open, cheapest first."""
    cuts = [cut] if cut else [block for block in Block if lowest <= block <= deepest] or [deepest]
    heads = [head] if head else [Head.GAP, Head.MAX, Head.GRID]
    found = []
    for one in cuts:
        below = block_below(one)
        for count in [scales] if scales else [1, 2]:
            if count == 2 and below is None:
                continue
            seen = (one,) if count == 1 or below is None else (below, one)
            found += [
                Candidate(one, kind, seen)
                for kind in heads
                if all(kind in {part.head for part in parts_of(spec, scale)} for scale in seen)
            ]
    return tuple(found)


def score_cuts(
    tried: Sequence[Candidate],
    features_of: Callable[[Candidate], tuple[Array, Array]],
    labels: tuple[Labels, Labels],
    multiplications_to: Callable[[Block], float],
    advance: Callable[[int], None],
    *,
    threads: int = 1,
) -> tuple[CutScore, ...]:
    """One line for each candidate, in order; exactly one is chosen.

    `features_of` gives the features [N, D] of training and tuning images; several threads may ask.
    `multiplications_to`: multiply-adds of one image through the trunk up to a block. A lower
    cut is chosen when its smallest tuning loss is within one standard error (of the paired difference) of
    the smallest of all.
    """
    classes = int(labels[0].max()) + 1

    def fit_of(candidate: Candidate) -> tuple[Fit, int]:
        train, tuning = features_of(candidate)
        scale = feature_scale(train)
        scale_in_place(train, scale)
        scale_in_place(tuning, scale)
        fit = best_fit(alike(train, labels[0]), alike(tuning, labels[1]), classes, iterations=60)
        return fit, train.shape[1]

    found = []
    with one_thread_each(), ThreadPoolExecutor(threads) as pool:
        for one in pool.map(fit_of, tried):
            found.append(one)
            advance(1)
    fits = [fit for fit, _ in found]
    chosen = _choose(tried, fits)
    return tuple(
        CutScore(
            cut=candidate.cut,
            head=candidate.head,
            scales=candidate.scales,
            features=width,
            giga_macs=multiplications_to(candidate.cut) / 1e9,
            tuning_loss=fit.tuning_loss,
            tuning_accuracy=fit.tuning_accuracy,
            chosen=number == chosen,
        )
        for number, (candidate, (fit, width)) in enumerate(zip(tried, found, strict=True))
    )


def _choose(tried: Sequence[Candidate], fits: Sequence[Fit]) -> int:
    """The best of the lowest cut whose best is not worse than the best of all by over one standard error."""
    order = sorted(range(len(fits)), key=lambda number: fits[number].tuning_loss)
    best = fits[order[0]]
    for cut in sorted({candidate.cut for candidate in tried}):
        number = next(number for number in order if tried[number].cut == cut)
        difference = fits[number].tuning_losses - best.tuning_losses
        if difference.mean() <= difference.std() / np.sqrt(len(difference)):
            return number
    return order[0]
