"""Training curves for TensorBoard, if asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgetl.card import EpochRecord
from edgetl.keras import tf


@contextmanager
def curves_writer(folder: Path | None) -> Iterator[Callable[[EpochRecord], None]]:
    """A function that adds one epoch to event files in `folder`; without a folder it does nothing."""
    if folder is None:
        yield lambda _record: None
        return
    writer = tf.summary.create_file_writer(str(folder))

    def write(record: EpochRecord) -> None:
        with writer.as_default():
            for name in ("train_loss", "train_accuracy", "tuning_loss", "tuning_accuracy"):
                tf.summary.scalar(f"{record.stage}/{name}", getattr(record, name), step=record.epoch)

    yield write
    writer.close()
