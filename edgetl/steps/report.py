"""`edgetl report`: one HTML page from a model folder's card."""

from pathlib import Path, PurePosixPath

from edgetl import images
from edgetl.card import Model
from edgetl.config import ReportConfig
from edgetl.files import write_atomically
from edgetl.report import headline
from edgetl.report.html import page
from edgetl.results import ReportResult

REPORT_FILE = "report.html"
THUMBNAIL_PIXELS = 168  # twice the drawn size, for dense screens


def report(model: Model, config: ReportConfig) -> ReportResult:
    """Draw the card of `model` into one self-contained file. Raises `StorageError`."""
    output = config.output or model.folder / REPORT_FILE
    thumbnails = _thumbnails(model)
    # A name in the card can hold half a surrogate pair, which UTF-8 has no bytes for.
    content = page(model.card, thumbnails).encode("utf-8", "replace")
    write_atomically(output, content)
    return ReportResult(
        output=str(output),
        size_bytes=len(content),
        headline=headline(model.card),
        thumbnails=len(thumbnails or {}),
        data_found=thumbnails is not None,
    )


def _thumbnails(model: Model) -> dict[str, bytes] | None:
    """Small JPEG files of the images artifacts disagree on, by path; None without the data folder."""
    folder = model.data_folder
    if not folder.is_dir():
        return None
    paths = {item.path for parity in model.card.parity.values() for item in parity.disagreements}
    found = {path: _thumbnail(folder, path, model.card.input.background_rgb) for path in sorted(paths)}
    return {path: content for path, content in found.items() if content is not None}


def _thumbnail(folder: Path, path: str, background: tuple[int, int, int]) -> bytes | None:
    relative = PurePosixPath(path)
    if (
        relative.is_absolute() or ".." in relative.parts
    ):  # a card from elsewhere must not pick files from here
        return None
    data = images.read_bytes(folder / relative)
    decoded = data if isinstance(data, images.Refused) else images.decode(data, background)
    if isinstance(decoded, images.Refused):
        return None
    return images.encode_jpeg_thumbnail(decoded.pixels, THUMBNAIL_PIXELS)
