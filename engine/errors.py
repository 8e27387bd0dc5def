"""The one exception that is a person's to mend."""


class UserError(Exception):
    """A mistake or a limit that a person can do something about.

    The message is one sentence that says what is wrong and one that says what to do; it is shown as it is.
    """
