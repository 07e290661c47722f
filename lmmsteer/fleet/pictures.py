"""A shard's pictures: decoded ahead of whoever asks for one, and never all of them in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial

from PIL import Image

from lmmsteer.errors import PictureError
from lmmsteer.models.picture_pool import PROCESSES, shared_decoders
from lmmsteer.schema import Picture

FILLER = (336, 336)
AHEAD = 16  # Pictures decoded before they are asked for, at most.
KEPT_BYTES = 256 << 20  # Decoded pictures that are kept; others are decoded again.
PIXEL_BYTES = 4  # Of an RGB picture in Pillow's memory.


class Decoded(Mapping[str, Image.Image]):
    """A shard's pictures, for the length of a `with` block, asked for from any thread.

    Decoded in processes of their own, in the shard's order, a little ahead of who asks; beyond
    KEPT_BYTES the least recently used are dropped, and decoded anew for a stage that asks again.
    A broken one is a grey filler, so that its neighbours' batches are what they would be; `error`
    has the reason.
    """

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self._pictures, self._decoders = pictures, shared_decoders()
        self._order = list(pictures)
        self._place = {image_id: place for place, image_id in enumerate(self._order)}
        self._next = 0  # The place after the last one asked for.
        self._kept: OrderedDict[str, Image.Image] = OrderedDict()
        self._bytes = 0
        self._coming: dict[str, Future[Image.Image]] = {}
        self._errors = {i: _unread(p) for i, p in pictures.items() if p.bytes is None}
        self._fine: set[str] = set()
        self._closed = False
        # A picture that is ready at once is noted by the thread that asked for it, lock in hand.
        self._lock = threading.RLock()

    def __enter__(self) -> Decoded:
        with self._lock:
            self._look_ahead()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            coming = list(self._coming.values())
        for future in coming:
            future.cancel()

    def __getitem__(self, image_id: str) -> Image.Image:
        found = self._outcome(image_id)
        return found if found is not None else Image.new("RGB", FILLER, (127, 127, 127))

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._place

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def error(self, image_id: str) -> PictureError | None:
        """Why a picture cannot be shown, or None."""
        if image_id not in self._fine and image_id not in self._errors:
            self._outcome(image_id)
        return self._errors.get(image_id)

    def _outcome(self, image_id: str) -> Image.Image | None:
        """The picture, or None for one whose error is known by now."""
        with self._lock:
            self._next = self._place[image_id] + 1
            kept = self._kept.get(image_id)
            if kept is not None:
                self._kept.move_to_end(image_id)
            future = None
            if kept is None and image_id not in self._errors:
                future = self._coming.get(image_id) or self._start(image_id)
            self._look_ahead()
        if future is None:
            return kept
        try:
            return future.result()
        except PictureError as error:
            self._errors[image_id] = _plain(error)
            return None

    def _look_ahead(self) -> None:
        """Start what comes next, while what is ready and not yet asked for leaves room."""
        window = self._order[self._next : self._next + AHEAD]
        ready = sum(_size(self._kept[i]) for i in window if i in self._kept)
        for image_id in window:
            if self._closed or len(self._coming) >= PROCESSES or ready > KEPT_BYTES // 2:
                return
            if not any(image_id in known for known in (self._kept, self._errors, self._coming)):
                self._start(image_id)

    def _start(self, image_id: str) -> Future[Image.Image]:
        data = self._pictures[image_id].bytes
        assert data is not None
        future = self._coming[image_id] = self._decoders.submit(data)
        future.add_done_callback(partial(self._note, image_id))
        return future

    def _note(self, image_id: str, future: Future[Image.Image]) -> None:
        with self._lock:
            self._coming.pop(image_id, None)
            if self._closed or future.cancelled():
                return
            error = future.exception()
            if error is None:
                self._keep(image_id, future.result())
            elif isinstance(error, PictureError):
                self._errors[image_id] = _plain(error)
            else:
                return  # No picture's fault: whoever asks for it meets it.
            self._look_ahead()

    def _keep(self, image_id: str, image: Image.Image) -> None:
        self._fine.add(image_id)
        if _size(image) > KEPT_BYTES:
            return
        self._kept[image_id] = image
        self._bytes += _size(image)
        while self._bytes > KEPT_BYTES:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _unread(picture: Picture) -> PictureError:
    return PictureError(picture.error_kind or "picture_missing", picture.error or "no bytes")


def _plain(error: PictureError) -> PictureError:
    """Without the traceback, which holds the file's bytes."""
    return PictureError(error.kind, str(error))


def _size(image: Image.Image) -> int:
    return image.width * image.height * PIXEL_BYTES
