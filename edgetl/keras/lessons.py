"""What a smaller network learns from: varied and mixed images, each with the larger network's answer.

The larger network runs once for each picture and never again. Half of the pictures beyond the images
themselves are two images laid over each other, of which labels say nothing but the larger network does
(Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl.config import Augment
from edgetl.dataset import Images
from edgetl.keras.augment import View
from edgetl.pixels import OnDisk, PixelRows
from edgetl.progress import task

Array = NDArray[np.float32]
NO_LABEL = -1
IMAGES_AT_ONCE = 32
_LEAST_SHARE = 0.4  # of the stronger of two images that are laid over each other
Teacher = Callable[[NDArray[np.uint8]], Array]  # uint8 RGB [N, H, W, 3] -> probabilities [N, classes]


@dataclass(frozen=True, eq=False)
class Lessons:
    """Picture v of image i is number v * images + i."""

    pixels: PixelRows  # uint8 RGB [pictures * images, H, W, 3]
    probabilities: Array  # [pictures * images, classes] of the larger network
    labels: NDArray[np.int64]  # [pictures * images]; NO_LABEL where only the larger network knows
    pictures: int  # of each image
    digests: tuple[str, ...]  # [images] of the image files

    @property
    def images(self) -> int:
        """How many."""
        return len(self.digests)


@dataclass(frozen=True)
class LessonPlan:
    """How many pictures of each image, and how they differ."""

    pictures: int
    augment: Augment
    flip: bool  # whether every second picture is mirrored
    seed: int

    def is_mixed(self, number: int) -> bool:
        """Whether a picture is two images laid over each other: every second one of the varied ones."""
        return number > 0 and number % 2 == 0


def make_lessons(
    sources: Sequence[Images],
    plan: LessonPlan,
    teacher: Teacher,
    scratch: Path,
    *,
    known: Array | None = None,
    keep: Callable[[Array], None] = lambda _answers: None,
    is_enough: Callable[[], bool] = lambda: False,
) -> Lessons:
    """Pictures of all images of all sources in a nameless file in `scratch`, with the teacher's answers.

    Labels below 0 are not known. known: answers to the first pictures, from an earlier run on the same
    images. keep: gets all answers after each picture that was asked. is_enough: whether to ask no more; one
    picture is made in any case. Raises `StorageError` when the disk has no room.
    """
    count = sum(len(source) for source in sources)
    height, width = sources[0].pixels.shape[1:3]
    fix = f"Give --pictures a smaller number than {plan.pictures}, or -o a place on another disk."
    room = OnDisk(scratch, plan.pictures * count, height, width, fix)
    answers = [] if known is None else np.split(known, len(known) // count)
    doing = "drawing the pictures again" if len(answers) == plan.pictures else "asking the larger network"
    with task(doing, plan.pictures * count) as advance:
        for picture in range(plan.pictures):
            is_new = picture == len(answers)
            if is_new and answers and is_enough():
                break
            told = []
            for start, pixels in _drawn(sources, plan, picture):
                for number, image in enumerate(pixels, picture * count + start):
                    room.put(number, image)
                if is_new:
                    told.append(teacher(pixels))
                advance(len(pixels))
            if is_new:
                answers.append(np.concatenate(told))
                keep(np.concatenate(answers))
    labels = np.concatenate([source.labels for source in sources])
    known_labels = [
        np.full(count, NO_LABEL) if plan.is_mixed(picture) else labels for picture in range(len(answers))
    ]
    return Lessons(
        room.first(len(answers) * count),
        np.concatenate(answers),
        np.concatenate(known_labels),
        len(answers),
        tuple(digest for source in sources for digest in source.digests),
    )


def _drawn(
    sources: Sequence[Images], plan: LessonPlan, picture: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """One picture of every image, some at a time, each time with the position of the first."""
    count = sum(len(source) for source in sources)
    partners = np.random.default_rng((plan.seed, picture)).permutation(count)
    for start in range(0, count, IMAGES_AT_ONCE):
        some = np.arange(start, min(start + IMAGES_AT_ONCE, count))
        pixels = _pictures(sources, some, plan, picture)
        if plan.is_mixed(picture):
            other = _pictures(sources, partners[some], plan, picture)
            pixels = _mixed(pixels, other, (plan.seed, picture, start))
        yield start, pixels


def _pictures(
    sources: Sequence[Images], positions: NDArray[np.int64], plan: LessonPlan, picture: int
) -> NDArray[np.uint8]:
    """Varied copies of the images at these positions of all sources."""
    number = picture if plan.flip else 2 * picture  # even numbers do not mirror
    view = View(number, Augment.OFF if picture == 0 else plan.augment, plan.seed)
    pixels = np.empty((len(positions), *sources[0].pixels.shape[1:]), np.uint8)
    start = 0
    for source in sources:
        mine = (positions >= start) & (positions < start + len(source))
        inside = positions[mine] - start
        pixels[mine] = view.of(source.pixels[inside], [source.digests[i] for i in inside.tolist()])
        start += len(source)
    return pixels


def _mixed(pixels: NDArray[np.uint8], others: NDArray[np.uint8], seed: tuple[int, ...]) -> NDArray[np.uint8]:
    shares = np.random.default_rng(seed).uniform(_LEAST_SHARE, 1, len(pixels)).astype(np.float32)
    shares = shares[:, None, None, None]
    return np.rint(shares * pixels + (1 - shares) * others).astype(np.uint8)
