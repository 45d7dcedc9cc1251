"""The engine: encodings -> model outputs, on one device."""

from handler.engine.engine import BATCH_TOKENS, DeviceUsage, Engine
from handler.engine.isolation import is_device_failure, is_out_of_memory

__all__ = ["BATCH_TOKENS", "DeviceUsage", "Engine", "is_device_failure", "is_out_of_memory"]
