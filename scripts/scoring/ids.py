"""Ids of rows in the output: every value of JSON and of Parquet, written without loss.

JSON has fewer types than Parquet. Dates, times and timestamps become texts of ISO 8601 (timestamps with a zone in UTC),
durations `PT<seconds>S`, decimals and UUIDs texts, bytes base64, infinite numbers "Infinity" and "-Infinity"; a missing
id and NaN become null. An output in Parquet keeps the type of the column where all files of a run are Parquet with the
same type of id, and holds the texts of JSON otherwise.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import uuid
from collections.abc import Sequence
from typing import Any

from handler.protocol import JSON


def id_of(value: Any) -> JSON:
    """Return the JSON value of an id.

    >>> id_of(datetime.date(2024, 5, 1)), id_of(decimal.Decimal("1.10")), id_of(b"\\x00\\xff"), id_of(float("nan"))
    ('2024-05-01', '1.10', 'AP8=', None)
    >>> id_of({"day": datetime.datetime(2024, 5, 1, 12, 30), "took": datetime.timedelta(milliseconds=1500)})
    {'day': '2024-05-01T12:30:00', 'took': 'PT1.5S'}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else json.dumps(value)
    if isinstance(value, datetime.timedelta):
        return duration(round(value / datetime.timedelta(microseconds=1)), 10**6)
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, dict):
        return {str(name): id_of(field) for name, field in value.items()}
    return [id_of(item) for item in value] if isinstance(value, list | tuple) else value


def ids_of_column(column: Any) -> list[JSON]:
    """Return the JSON values of a column of Arrow, nanoseconds included, which Python's own types do not have."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return ids_of_column(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        utc = column if kind.tz is None else column.cast(pa.timestamp(kind.unit, "UTC"))
        return [text and text.replace(" ", "T") for text in utc.cast(pa.string()).to_pylist()]
    if pa.types.is_time(kind):
        return list(column.cast(pa.string()).to_pylist())
    if pa.types.is_duration(kind):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        return [None if ticks is None else duration(ticks, per_second) for ticks in column.cast(pa.int64()).to_pylist()]
    return [id_of(value) for value in column.to_pylist()]


def text_of(row_id: JSON) -> str | None:
    """Return an id as the text that a column of texts holds."""
    return row_id if isinstance(row_id, str | None) else json.dumps(row_id, allow_nan=False)


def typed_ids(types: Sequence[str]) -> bool:
    """Return whether an output can keep the type of ids: all files have the same one; it is empty outside Parquet."""
    return len(set(types)) == 1 and bool(types[0])


def duration(ticks: int, per_second: int) -> str:
    """Return a duration in ISO 8601.

    >>> duration(1500, 1000), duration(-60, 1)
    ('PT1.5S', '-PT60S')
    """
    seconds, rest = divmod(abs(ticks), per_second)
    fraction = f".{rest:0{len(str(per_second)) - 1}d}".rstrip("0") if rest else ""
    return f"{'-' if ticks < 0 else ''}PT{seconds}{fraction}S"
