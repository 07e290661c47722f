"""Pictures prepared ahead of their turn, and vision features kept for whoever shows them again."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

from PIL import Image
from torch import Tensor

from lmmsteer.models.lmm import Lmm, PreparedPicture

AHEAD = 16  # Pictures prepared before their turn.
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
        self._kept: OrderedDict[tuple[str, str, str], Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, lmm: Lmm, picture: PreparedPicture) -> tuple[str, str, str]:
        found = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(picture.features.items()):
            found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            found.update(tensor.contiguous().numpy().data)
        return (lmm.digest, str(lmm.dtype), found.hexdigest())

    def get(self, key: tuple[str, str, str]) -> Tensor | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def clear(self) -> None:
        self._kept.clear()
        self.size = 0

    def put(self, key: tuple[str, str, str], features: Tensor) -> None:
        size = features.nbytes
        if key in self._kept or size > self.limit:
            return
        self._kept[key] = features
        self.size += size
        while self.size > self.limit:
            _, dropped = self._kept.popitem(last=False)
            self.size -= dropped.nbytes
