"""Which card this is."""

from enum import Enum

synDeviceType = Enum("synDeviceType", ["synDeviceGaudi2", "synDeviceGaudi3"])  # noqa: N816


def _get_device_type() -> synDeviceType:
    return synDeviceType.synDeviceGaudi2
