"""Steer large multimodal models away from protected attributes, at the scale of whole studies."""

__version__ = "0.1.0"
