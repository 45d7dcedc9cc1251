"""One table of the report for each question; rows come as they stand in results.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

LEDGER = "sent = right + refused + failed"
SCALES = {
    "work": ("tokens of work", "what is asked for at once"),
    "batch": ("texts at once", "how many texts one call of the engine gets"),
    "budget": ("token budget", "`max_batch_tokens`: tokens of one forward pass"),
    "threads": ("threads", "of one worker"),
    "workers": ("workers", "processes that share the cores, each with its own copy of the model"),
}


def engine(rows: Sequence[Row]) -> str:
    """Write the speed of the engine."""
    return table(
        ["model", "lengths", "precision", "texts/s", "tokens/s", "GFLOP/s", "roofline", "fraction"],
        [
            [
                *(row["model"], f"{row['mix']} ({row['mean_length']:.0f})", row["precision"]),
                *(number(row["texts_per_s"]), number(row["tokens_per_s"]), number(row["gflops"])),
                *(number(row.get("roofline_gflops")), fraction(row)),
            ]
            for row in rows
        ],
    )


def fraction(row: Row) -> str:
    """Write a fraction of the roofline with its spread."""
    if "fraction" not in row:
        return "-"
    low, high = row["fraction_spread"]
    return f"{row['fraction']:.0%} [{low:.0%}, {high:.0%}]"


def peers(rows: Sequence[Row]) -> str:
    """Write who answered how many texts a second."""
    return table(
        ["model", "lengths", "contender", "at its best with", "texts/s", "ratio"],
        [
            [
                *(row["model"], row["mix"], name_of(its)),
                *(its["setting"], number(its["texts_per_s"]), ratio(its)),
            ]
            for row in rows
            for its in sorted(row["contenders"], key=lambda its: -its["ratio"])
        ],
    )


def name_of(contender: Row) -> str:
    """Write a contender's name, ours in bold."""
    return f"**{contender['name']}**" if contender["ours"] else str(contender["name"])


def ratio(contender: Row) -> str:
    """Write a ratio with its spread."""
    low, high = contender["ratio_spread"]
    return f"{contender['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def padding(rows: Sequence[Row]) -> str:
    """Write how many tokens are computed for one that is there."""
    return table(
        ["model", "lengths", "packed", "sorted, to the longest", "to the longest", "to a fixed length"],
        [
            [
                row["model"],
                row["mix"],
                "1.00",
                *(f"{row['padding'][kind]:.2f}" for kind in ("sorted", "longest", "fixed")),
            ]
            for row in rows
            if "padding" in row
        ],
    )


def accuracy(rows: Sequence[Row]) -> str:
    """Write how many labels stay."""
    return table(
        ["model", "texts", "contender", "same label as fp32", "flips", "right labels"],
        [
            [
                *(row["model"], row["texts"], name_of(its), f"{its['agreement']:.2%}", its["flips"]),
                f"{its['accuracy']:.2%}" if its.get("accuracy") is not None else "-",
            ]
            for row in rows
            for its in row["contenders"]
        ],
    )


def ledger(row: Row) -> str:
    """Write what became of the requests."""
    its = row["ledger"]
    return f"{its['sent']} = {its['right']} + {its['refused']} + {its['failed']}, wrong {its['wrong']}"


def offline(rows: Sequence[Row]) -> str:
    """Write how fast a heap of texts was answered."""
    return table(
        [
            "model",
            "lengths",
            "precision",
            "texts a request",
            "texts/s",
            "of the engine",
            LEDGER,
        ],
        [
            [
                *(row["model"], row["mix"], row["precision"], row["texts_per_request"]),
                *(number(row["texts_per_s"]), f"{row['of_engine']:.0%}", ledger(row)),
            ]
            for row in rows
        ],
    )


def server(rows: Sequence[Row]) -> str:
    """Write which rate was found, and every rate that was tried."""
    found = table(
        [
            "model",
            "lengths",
            "precision",
            "p99 bound",
            "found rate",
            "over offline",
            "one text alone",
            LEDGER,
        ],
        [
            [
                *(row["model"], row["mix"], row["precision"], f"{row['bound_ms']:.0f} ms"),
                *(f"{number(row['found'])}/s", f"{row['over_offline']:.0%}"),
                *(f"{row['alone_ms']:.1f} ms, engine {row['engine_alone_ms']:.1f} ms", ledger(row)),
            ]
            for row in rows
        ],
    )
    tried = table(
        ["model", "precision", "rate", "p50", "p90", "p99", "within the bound"],
        [
            [
                *(row["model"], row["precision"], f"{number(trial['rate'])}/s"),
                *(f"{trial[name]:.1f} ms" for name in ("p50_ms", "p90_ms", "p99_ms")),
                "yes" if trial["valid"] else "no",
            ]
            for row in rows
            for trial in row["trials"]
        ],
    )
    return f"{found}\n\n{tried}" if found else ""


def http_peers(rows: Sequence[Row]) -> str:
    """Write servers side by side."""
    return table(
        ["model", "connections", "server", "texts/s", "p50", "p99", LEDGER],
        [
            [
                *(row["model"], row["connections"], name_of(its), number(its["texts_per_s"])),
                *(f"{its['p50_ms']:.1f} ms", f"{its['p99_ms']:.1f} ms", ledger(its)),
            ]
            for row in rows
            for its in row["servers"]
        ],
    )


def scaling(rows: Sequence[Row]) -> str:
    """Write one small table for each thing that changed."""
    told = []
    for row in rows:
        name, what = SCALES[row["kind"]]
        points = [
            [
                *(number(point["at"]), number(point["tokens_per_s"]), f"{point['ms']:.1f} ms"),
                f"{point['us_per_token']:.1f}",
                f"{point['memory_mb']:.0f} MB" if point.get("memory_mb") is not None else "-",
            ]
            for point in row["points"]
        ]
        head = f"### {row['model']} {row['precision']}: {name}\n\nThat is {what}."
        told.append(head + "\n\n" + table([name, "tokens/s", "time", "µs a token", "more memory"], points))
    return "\n\n".join(told)


def number(value: float | None) -> str:
    """Write a number with three digits that count.

    >>> number(12345.6), number(0.1234), number(98.76)
    ('12,346', '0.123', '98.8')
    """
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a Markdown table; nothing where there are no rows.

    >>> print(table(["a", "b"], [[1, "x"]]))
    | a | b |
    |---|---|
    | 1 | x |
    """
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        ("|" + "|".join(map(str, line)) + "|") if line[0] == "---" else "| " + " | ".join(map(str, line)) + " |"
        for line in lines
    )
