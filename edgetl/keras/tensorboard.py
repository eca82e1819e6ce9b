"""Training curves for TensorBoard, if asked for. Written without TensorBoard, which need not be installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgetl.card import EpochRecord
from edgetl.files import make_folder
from edgetl.keras import tf

_SCALARS = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
)


@contextmanager
def curves_writer(folder: Path | None) -> Iterator[Callable[[EpochRecord], None]]:
    """A function that adds one epoch to event files in `folder`; without a folder it does nothing.

    Raises `StorageError` when the folder cannot be made.
    """
    if folder is None:
        yield lambda _record: None
        return
    make_folder(folder)
    writer = tf.summary.create_file_writer(str(folder))

    def write(record: EpochRecord) -> None:
        with writer.as_default():
            for name in ("train_loss", "train_accuracy", "tuning_loss", "tuning_accuracy"):
                value = tf.constant(getattr(record, name), tf.float32)
                tf.summary.write(f"{record.stage}/{name}", value, step=record.epoch, metadata=_SCALARS)

    try:
        yield write
    finally:
        writer.close()
