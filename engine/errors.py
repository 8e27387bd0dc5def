"""What goes wrong and is a person's to mend."""

import errno


class UserError(Exception):
    """A mistake or a limit that a person can do something about.

    The message is one sentence that says what is wrong and one that says what to do; it is shown as it is.
    """


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` is the system's or SQLite's way of saying that there is no room left."""
    return getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error)
