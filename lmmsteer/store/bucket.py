"""An s3:// or gs:// address as a pyarrow file system and the place in it.

No address holds a credential: it is written into logs and records, and sent to every worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from lmmsteer.errors import LmmsteerError
from lmmsteer.store.retries import CREDENTIALS, Retries, scrubbed

TEXTS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
FLAGS = (
    "allow_bucket_creation",
    "allow_bucket_deletion",
    "anonymous",
    "background_writes",
    "force_virtual_addressing",
)
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


@dataclass(frozen=True)
class Bucket:
    """base: bucket and path; creation: whether the bucket may be made where it is missing."""

    filesystem: fs.FileSystem
    base: str
    creation: bool


def open_bucket(out: str, retries: Retries) -> Bucket:
    """Raises: LmmsteerError for credentials in the address, an unknown option, a bad address."""
    try:
        address = urlsplit(out)
        refuse_credentials(address)
        if not address.netloc:
            raise ValueError("it names no bucket")
        if address.scheme == "s3":
            return _s3(address, retries)
        return _gs(out, address)
    except (OSError, ValueError, TypeError, ImportError, pa.ArrowException) as error:
        raise LmmsteerError(
            f"out={scrubbed(out)} cannot be opened: {scrubbed(str(error)).rstrip('.')}.",
            "Name a folder, or an s3:// or gs:// address.",
        ) from None


def refuse_credentials(address: SplitResult) -> None:
    """Credentials come from the environment, on every machine of the run."""
    user = (address.username, address.password) not in ((None, None), ("anonymous", None))
    if not user and not CREDENTIALS.search(f"?{address.query}") and "@" not in address.query:
        return
    plain = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
    names = "GOOGLE_APPLICATION_CREDENTIALS"
    if address.scheme == "s3":
        names = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
    raise LmmsteerError(
        f"The address of {plain} holds credentials, which would be written into logs and records.",
        f"Leave them out of it and set {names}, on every machine of the run.",
    )


def _s3(address: SplitResult, retries: Retries) -> Bucket:
    options = _options(address)
    if "endpoint_override" not in options:
        found = [os.environ[name] for name in ENDPOINTS if os.environ.get(name)]
        options.update({"endpoint_override": found[0]} if found else {})
    if not options.keys() & {"endpoint_override", "region"}:
        options["region"] = retries.run(lambda: fs.resolve_s3_region(address.netloc))
    # The tries are counted by Retries alone, so that two loops do not multiply.
    options["retry_strategy"] = fs.AwsStandardS3RetryStrategy(max_attempts=1)
    filesystem = _made(fs.S3FileSystem, options)
    return Bucket(filesystem, _base(address), options.get("allow_bucket_creation", False))


def _made(kind: Callable[..., fs.FileSystem], options: dict[str, Any]) -> fs.FileSystem:
    try:
        # One PUT for what fits in one. Older versions of pyarrow send every file in parts.
        return kind(allow_delayed_open=True, **options)
    except TypeError:
        return kind(**options)


def _gs(out: str, address: SplitResult) -> Bucket:
    if "retry_limit_seconds" not in address.query:
        # Its own tries last a quarter of an hour; they are to end before those of Retries.
        out += "&retry_limit_seconds=5" if address.query else "?retry_limit_seconds=5"
    filesystem, base = fs.FileSystem.from_uri(out)
    return Bucket(filesystem, base.rstrip("/"), creation=False)


def _base(address: SplitResult) -> str:
    return f"{address.netloc}/{unquote(address.path).strip('/')}".rstrip("/")


def _options(address: SplitResult) -> dict[str, Any]:
    """The options in the address, named as pyarrow names them."""
    options: dict[str, Any] = {}
    for name, value in parse_qsl(address.query, keep_blank_values=True):
        if name in TEXTS:
            options[name] = value
        elif name in FLAGS and value.lower() in ("true", "false"):
            options[name] = value.lower() == "true"
        else:
            known = ", ".join((*TEXTS, *FLAGS))
            raise ValueError(
                f"{name}={value} is no option (known: {known}; flags are true or false)"
            )
    return options
