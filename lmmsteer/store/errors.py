"""What storage refuses, as one sentence each that names the place and what mends it."""

from __future__ import annotations

import errno
import re

from lmmsteer.errors import RunFailed
from lmmsteer.store.retries import NO_TOKEN, passes, scrubbed

DENIED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY",
    "SIGNATURE_DOES_NOT_MATCH",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    NO_TOKEN,
)
NOISE = re.compile(r"^.*(?=AWS Error)|^\[Errno \d+\] | \(Request ID.*$| error_info=.*$")


class Unreadable(RunFailed, OSError):
    """A file or folder that is there and cannot be read.

    An OSError as well, so that who reads many files can name this one and go on.
    """


def unreadable(place: object, error: OSError) -> Unreadable:
    return Unreadable(f"{place} cannot be read: {reason(error)}.", _mend(error))


def unwritable(place: object, error: OSError) -> RunFailed:
    return RunFailed(f"{place} cannot be written: {reason(error)}.", _mend(error))


def reason(error: OSError) -> str:
    """The system's words for it, without number and path."""
    return (error.strerror or " ".join(str(error).split())).rstrip(".")


def _mend(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space and run the same command again: what is done stays done."
    if error.errno in (errno.EIO, errno.ESTALE):
        return (
            "The disk, or the way to it, is failing: see the system's log,"
            " then run the same command again: what is done stays done."
        )
    return "Check the folder's rights, or choose another with out=FOLDER."


def refused(place: str, what: str, error: Exception, tries: int) -> tuple[str, str]:
    """An SDK's error after so many tries: a sentence about the object, and what mends it."""
    text = scrubbed(str(error))
    why = NOISE.sub("", text)[:300].rstrip(".")
    mend = "Check the address: out=s3://BUCKET/PATH or out=gs://BUCKET/PATH"
    if passes(error):
        mend = f"It was tried {tries} times. Run the same command again: what is done stays done."
    elif "NO_SUCH_BUCKET" in text:
        mend = "Make the bucket, or let it be made: add ?allow_bucket_creation=true to the address."
    elif isinstance(error, FileNotFoundError):
        mend = "Make the bucket, or choose another: out=gs://BUCKET/PATH"
    elif any(word in text for word in DENIED):
        mend = (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (GOOGLE_APPLICATION_CREDENTIALS for"
            " gs://) of an account that may read and write there, on every machine of the run."
        )
    return f"{place} cannot be {what}: {why}.", mend
