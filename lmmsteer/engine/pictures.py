"""Pictures prepared ahead of their turn, and vision features kept for whoever shows them again."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any

from PIL import Image
from torch import Tensor

from lmmsteer.models.decoding import DECODING
from lmmsteer.models.lmm import Lmm, PreparedPicture

Key = tuple[str, str, str]
AHEAD = 16  # Pictures prepared before their turn.
PICTURES = 8  # Pictures of one vision call: beyond, larger calls bring nothing.
KEPT_BYTES = 1 << 30  # Vision features kept for other methods and attributes.


class Ahead:
    """Prepares pictures in the order of their turn, at most AHEAD of them before it.

    order: the picture of each `take`. One that comes again after others is prepared again, so that
    no more than AHEAD are held. wait: seconds in which the caller had to wait for one.
    """

    def __init__(
        self, lmm: Lmm, pictures: Mapping[str, Image.Image], order: Sequence[str], workers: int = 1
    ) -> None:
        self.lmm, self.pictures = lmm, pictures
        self.wait = 0.0
        self._order = deque((image_id, len(list(same))) for image_id, same in groupby(order))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
        self._made: deque[tuple[Future[PreparedPicture], int]] = deque()  # and takes that are left
        self._fill()

    def take(self) -> PreparedPicture:
        """The next prepared picture of the order."""
        made, left = self._made.popleft()
        started = time.perf_counter()
        picture = made.result()
        self.wait += time.perf_counter() - started
        if left > 1:
            self._made.appendleft((made, left - 1))
        self._fill()
        return picture

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        while self._order and len(self._made) < AHEAD:
            image_id, takes = self._order.popleft()
            self._made.append((self._pool.submit(self._prepare, image_id), takes))

    def _prepare(self, image_id: str) -> PreparedPicture:
        return self.lmm.prepare(self.pictures[image_id])


class FeatureCache:
    """Vision features by model and pixels, the least recently used dropped beyond `limit` bytes."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit, self.size = limit, 0
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, lmm: Lmm, picture: PreparedPicture) -> Key:
        found = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(picture.features.items()):
            found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            found.update(tensor.contiguous().numpy().data)
        return (lmm.digest, str(lmm.dtype), found.hexdigest())

    def get(self, key: Key) -> Tensor | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def clear(self) -> None:
        self._kept.clear()
        self.size = 0

    def put(self, key: Key, features: Tensor) -> None:
        size = features.nbytes
        if key in self._kept or size > self.limit:
            return
        self._kept[key] = features
        self.size += size
        while self.size > self.limit:
            _, dropped = self._kept.popitem(last=False)
            self.size -= dropped.nbytes


def encoded(
    lmm: Lmm, pictures: Sequence[PreparedPicture], cache: FeatureCache, size: int
) -> tuple[list[Tensor], int]:
    """Each picture as the decoder reads it, and how many the vision tower had to see for it.

    size: the most pictures of one call; those whose tensors have the same shapes go together.
    """
    keys = [cache.key(lmm, picture) for picture in pictures]
    found = {key: cache.get(key) for key in keys}
    missing = [
        (k, p) for k, p in dict(zip(keys, pictures, strict=True)).items() if found[k] is None
    ]
    for batch in _alike(missing, size):
        made = DECODING[lmm.family.name].features(lmm, [picture for _, picture in batch])
        for (key, _), features in zip(batch, made, strict=True):
            kept = features.clone()  # A view would keep its whole batch in memory.
            found[key] = kept
            cache.put(key, kept)
    return [features for key in keys if (features := found[key]) is not None], len(missing)


def _alike(
    items: Sequence[tuple[Key, PreparedPicture]], size: int
) -> Iterator[list[tuple[Key, PreparedPicture]]]:
    by_shape: dict[Any, list[tuple[Key, PreparedPicture]]] = {}
    for item in items:
        shapes = tuple((n, tuple(t.shape)) for n, t in sorted(item[1].features.items()))
        by_shape.setdefault(shapes, []).append(item)
    for alike in by_shape.values():
        for start in range(0, len(alike), size):
            yield alike[start : start + size]
