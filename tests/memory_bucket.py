"""A bucket in memory, beneath pyarrow's file system interface, that fails as it is told to."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
from pyarrow import fs


class MemoryBucket(fs.FileSystemHandler):
    """`objects` by key. `after`: whether an upload that fails is done all the same."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.planned: dict[str, list[Exception | None]] = {}
        self.after = False
        self.asked: list[str] = []

    def plan(self, what: str, *faults: Exception | None) -> None:
        """What the next uploads, reads, deletions, listings or questions raise, if anything."""
        self.planned[what] = list(faults)

    def filesystem(self) -> fs.FileSystem:
        return fs.PyFileSystem(self)

    def fault(self, what: str) -> Exception | None:
        self.asked.append(what)
        planned = self.planned.get(what)
        return planned.pop(0) if planned else None

    def raise_fault(self, what: str) -> None:
        error = self.fault(what)
        if error is not None:
            raise error

    def get_type_name(self) -> str:
        return "memory"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self.raise_fault("info")
        kinds = [fs.FileType.File if p in self.objects else fs.FileType.NotFound for p in paths]
        return [fs.FileInfo(path, kind) for path, kind in zip(paths, kinds, strict=True)]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        self.raise_fault("list")
        below = f"{selector.base_dir}/"
        return [fs.FileInfo(key, fs.FileType.File) for key in self.objects if key.startswith(below)]

    def open_input_stream(self, path: str) -> pa.NativeFile:
        self.raise_fault("read")
        if path not in self.objects:
            raise FileNotFoundError(path)
        return pa.BufferReader(self.objects[path])

    open_input_file = open_input_stream

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Upload(self, path), mode="w")

    def delete_file(self, path: str) -> None:
        self.raise_fault("delete")
        if path not in self.objects:
            raise FileNotFoundError(path)
        del self.objects[path]

    def create_dir(self, path: str, recursive: bool) -> None:
        self.asked.append(f"make {path}")

    def _absent(self, *_: Any) -> Any:
        raise NotImplementedError

    delete_dir = delete_dir_contents = delete_root_dir_contents = _absent
    move = copy_file = open_append_stream = _absent


class _Upload(io.BytesIO):
    def __init__(self, bucket: MemoryBucket, path: str) -> None:
        super().__init__()
        self.bucket, self.path = bucket, path

    def close(self) -> None:
        if self.closed:
            return
        error = self.bucket.fault("upload")
        if error is None or self.bucket.after:
            self.bucket.objects[self.path] = self.getvalue()
        super().close()
        if error is not None:
            raise error
