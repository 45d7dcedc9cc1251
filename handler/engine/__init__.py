"""The engine: encodings -> model outputs, on one device."""

from handler.engine.engine import BATCH_TOKENS, DeviceUsage, Engine, engine_for
from handler.engine.isolation import is_out_of_memory
from handler.engine.vector_math import choose_code

__all__ = ["BATCH_TOKENS", "DeviceUsage", "Engine", "engine_for", "is_out_of_memory"]

choose_code()
