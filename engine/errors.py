"""What goes wrong and is a person's to mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError


class UserError(Exception):
    """A mistake or a limit that a person can do something about.

    The message is one sentence that says what is wrong and one that says what to do; it is shown as it is.
    """


@contextmanager
def whole(path: Path, way_out: str) -> Iterator[None]:
    """For what reads a file that the studio wrote, or a folder of them, at `path`. Raises UserError, with `way_out` for
    what to do, where it is cut off or garbled, in whatever way the library that reads it says so."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, RuntimeError, UnpicklingError, SafetensorError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is a RuntimeError; this needs no torch
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged ({said}). {way_out}") from error


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` is the system's or SQLite's way of saying that there is no room left."""
    return getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error)
