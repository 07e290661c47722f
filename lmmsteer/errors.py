"""What a user is told: what failed, why, and the command that mends it."""

from __future__ import annotations


class LmmsteerError(Exception):
    """One clear sentence for the user, and the override or command that mends it.

    Raised before any work is done; the command line prints it and exits with 2.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        self.what = what
        self.mend = mend
        super().__init__(f"{what}\n{mend}" if mend else what)


class RunFailed(LmmsteerError):
    """Work was begun and something is missing or failed; the command line exits with 1."""


class PictureError(Exception):
    """A picture that cannot be shown to a model; `kind` becomes the `error_kind` of its rows."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)
