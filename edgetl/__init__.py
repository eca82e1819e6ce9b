"""edgetl: a folder of labelled images in; small, fast, proven edge models out.

    import edgetl
    model = edgetl.open("models/demo")
    rows = model.predict(["photo.jpg"])

The functions mirror the commands of the same names. Nothing heavy is loaded before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetl.api import OpenModel, data, doctor, open, train  # noqa: A004 - edgetl.open reads well

__all__ = ["OpenModel", "data", "doctor", "open", "train"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first used, so that `import edgetl` stays instant."""
    if name in __all__:
        from edgetl import api

        return getattr(api, name)
    raise AttributeError(f"module 'edgetl' has no attribute {name!r}")
