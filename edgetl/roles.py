"""Four roles that are kept apart: who trains, who chooses, who calibrates and who certifies."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from edgetl.config import DataConfig
from edgetl.duplicates import Copies, groups
from edgetl.errors import UsageError

MOST_CALIBRATION_IMAGES = 256


class Role(StrEnum):
    """What an image is used for."""

    TRAIN = "train"
    TUNING = "tuning"
    CALIBRATION = "calibration"
    CERTIFICATION = "certification"


@dataclass(frozen=True)
class KeptOut:
    """Positions of certification images that would make the proof worth less than its numbers; disjoint."""

    disputed: frozenset[int]  # equal bytes lie in another class too: one of the labels is wrong
    leaking: frozenset[int]  # a copy or near copy has another role
    repeated: frozenset[int]  # a copy or near copy of an earlier certification image

    def all(self) -> frozenset[int]:
        """All positions kept out."""
        return self.disputed | self.leaking | self.repeated


@dataclass(frozen=True)
class _Draw:
    role: Role
    share: float  # of what is still for training
    most: int | None = None
    rounding: float = 0.5

    def share_of(self, images: int) -> float:
        """The share when `images` are still for training."""
        return self.share if self.most is None else min(self.share, self.most / max(1, images))


def check_shares(splits: Sequence[str], config: DataConfig) -> None:
    """Refuse shares that leave nothing for training. Raises `UsageError`."""
    drawn = config.tuning_share + config.certification_share
    if not {"val", "test"} & set(splits) and drawn >= 1:
        raise UsageError(
            f"tuning_share {config.tuning_share} and certification_share {config.certification_share} leave "
            "no images for training.",
            "Choose shares that together are below 1.",
        )


def assign_roles(
    labels: NDArray[np.int64],
    splits: Sequence[str],
    config: DataConfig,
    together: Sequence[Sequence[int]] = (),
) -> NDArray[np.str_]:
    """A role for each image [N]: the user's splits are kept; the others are drawn per class with the seed.

    val/ is tuning, test/ is certification. Calibration is always drawn from what would be train. Groups in
    `together` (positions, disjoint) get one role wherever their class is large enough for it. Each class
    keeps at least one image for every role that is drawn later, and for training, as far as it has any.
    """
    given = {"val": Role.TUNING.value, "test": Role.CERTIFICATION.value}
    roles = np.array([given.get(split, Role.TRAIN.value) for split in splits], dtype="<U13")
    random = np.random.default_rng(config.seed)
    draws = _draws(set(splits), config)
    group_of = {member: number for number, group in enumerate(together) for member in group}
    for number, draw in enumerate(draws):
        share = draw.share_of(int(np.count_nonzero(roles == Role.TRAIN.value)))
        for label in np.unique(labels):
            free = np.flatnonzero((roles == Role.TRAIN.value) & (labels == label))
            reserved = len(draws) - number  # one for each later role, and for training
            wanted = min(max(1, int(share * len(free) + draw.rounding)), max(0, len(free) - reserved))
            roles[_pick(random.permutation(free), wanted, group_of)] = draw.role.value
    return roles


def _draws(splits: set[str], config: DataConfig) -> list[_Draw]:
    draws = []
    left = 1.0
    if "test" not in splits:
        draws.append(_Draw(Role.CERTIFICATION, config.certification_share))
        left -= config.certification_share
    if "val" not in splits:
        draws.append(_Draw(Role.TUNING, config.tuning_share / left))
    return [*draws, _Draw(Role.CALIBRATION, config.calibration_share, MOST_CALIBRATION_IMAGES, rounding=0.0)]


def _pick(shuffled: NDArray[np.int64], wanted: int, group_of: dict[int, int]) -> list[int]:
    """The first `wanted` of the candidates, but groups only whole; if no unit is small enough, regardless."""
    units: dict[int, list[int]] = {}
    for candidate in shuffled.tolist():
        units.setdefault(group_of.get(candidate, -1 - candidate), []).append(candidate)
    picked: list[int] = []
    for unit in units.values():
        if len(picked) + len(unit) <= wanted:
            picked += unit
    return picked or shuffled[:wanted].tolist()


def keep_out(roles: NDArray[np.str_], labels: NDArray[np.int64], copies: Copies) -> KeptOut:
    """Which certification images must not count: roles [N] as from `assign_roles`, labels [N]."""
    certification = {int(position) for position in np.flatnonzero(roles == Role.CERTIFICATION.value)}
    disputed = {
        member
        for group in groups(copies.exact)
        if len(set(labels[list(group)].tolist())) > 1
        for member in group
        if member in certification
    }
    leaking: set[int] = set()
    repeated: set[int] = set()
    for group in copies.groups:
        inside = [member for member in group if member in certification]
        if len(inside) < len(group):
            leaking.update(inside)
        else:
            repeated.update([member for member in inside if member not in disputed][1:])
    return KeptOut(frozenset(disputed), frozenset(leaking - disputed), frozenset(repeated - disputed))
