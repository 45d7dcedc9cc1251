"""Tables of the report, one for each part, from the rows of results.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.cli.console import ScriptError

Row = dict[str, Any]

ACCOUNT = "sent = right + refused + failed"
CHECKED = "answers checked before: " + ACCOUNT
SCALES = {
    "work": ("tokens of work", "the tokens of one call of the engine"),
    "batch": ("texts at once", "the number of texts of one call of the engine"),
    "budget": ("token budget", "`max_batch_tokens`: tokens of one forward pass"),
    "threads": ("threads", "of one worker"),
    "workers": ("workers", "processes that share the cores, each with its own copy of the model"),
}


def read_results(path: Path, part: str) -> Row:
    """Read results.json of an earlier run, which has that part.

    Raises:
        ScriptError: another file.
    """
    try:
        results = json.loads(path.read_bytes())
    except ValueError:
        results = None
    if not isinstance(results, dict) or part not in results:
        raise ScriptError(f"{path} holds no results: give the results.json that this script wrote")
    return results


def engine(rows: Sequence[Row]) -> str:
    """Return the speed of the engine."""
    return table(
        ["model", "lengths", "precision", "texts/s", "tokens/s", "GFLOP/s", "roofline", "fraction", "to padded"],
        [
            [
                *(row["model"], f"{row['mix']} ({row['mean_length']:.0f})", row["precision"]),
                *(number(row["texts_per_s"]), number(row["tokens_per_s"]), number(row["gflops"])),
                *(number(row.get("roofline_gflops")), fraction(row)),
                f"{row['to_padded']:.2f}" if "to_padded" in row else "-",
            ]
            for row in rows
        ],
    )


def fraction(row: Row) -> str:
    """Return a fraction of the roofline with its quartiles."""
    if "fraction" not in row:
        return "-"
    low, high = row["fraction_spread"]
    return f"{row['fraction']:.0%} [{low:.0%}, {high:.0%}]"


def peers(rows: Sequence[Row]) -> str:
    """Return the speed of every peer."""
    return table(
        ["model", "lengths", "implementation", "at its best with", "texts/s", "ratio"],
        [
            [
                *(row["model"], row["mix"], name_of(peer)),
                *(peer["setting"], number(peer["texts_per_s"]), ratio(peer)),
            ]
            for row in rows
            for peer in sorted(row["contenders"], key=lambda peer: -peer["ratio"])
        ],
    )


def name_of(peer: Row) -> str:
    """Return the name of a peer, in bold for this package."""
    return f"**{peer['name']}**" if peer["ours"] else str(peer["name"])


def ratio(peer: Row) -> str:
    """Return a ratio with its quartiles."""
    low, high = peer["ratio_spread"]
    return f"{peer['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def padding(rows: Sequence[Row]) -> str:
    """Return the computed tokens per real token."""
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
    """Return agreement and accuracy of lower precision."""
    return table(
        ["model", "texts", "implementation", "same label as fp32", "flips", "right labels"],
        [
            [
                *(row["model"], row["texts"], name_of(peer), f"{peer['agreement']:.2%}", peer["flips"]),
                f"{peer['accuracy']:.2%}" if peer.get("accuracy") is not None else "-",
            ]
            for row in rows
            for peer in row["contenders"]
        ],
    )


def account(row: Row) -> str:
    """Return the account of the requests."""
    counts = row["ledger"]
    return f"{counts['sent']} = {counts['right']} + {counts['refused']} + {counts['failed']}, wrong {counts['wrong']}"


def offline(rows: Sequence[Row]) -> str:
    """Return the results of the Offline scenario."""
    return table(
        [
            "model",
            "server",
            "lengths",
            "precision",
            "texts a request",
            "texts/s",
            "of the engine",
            ACCOUNT,
        ],
        [
            [
                *(row["model"], row["server"], row["mix"], row["precision"], row["texts_per_request"]),
                *(number(row["texts_per_s"]), f"{row['of_engine']:.0%}", account(row)),
            ]
            for row in rows
        ],
    )


def server(rows: Sequence[Row]) -> str:
    """Return the best rate of the Server scenario, and every rate that was tried."""
    best = table(
        [
            "model",
            "server",
            "lengths",
            "precision",
            "p99 bound",
            "found rate",
            "over offline",
            "one text alone",
            ACCOUNT,
        ],
        [
            [
                *(row["model"], row["server"], row["mix"], row["precision"], f"{row['bound_ms']:.0f} ms"),
                *(f"{number(row['found'])}/s", f"{row['over_offline']:.0%}"),
                *(f"{row['alone_ms']:.1f} ms, engine {row['engine_alone_ms']:.1f} ms", account(row)),
            ]
            for row in rows
        ],
    )
    tried = table(
        ["model", "server", "precision", "rate", "p50", "p90", "p99", "within the bound"],
        [
            [
                *(row["model"], row["server"], row["precision"], f"{number(trial['rate'])}/s"),
                *(f"{trial[name]:.1f} ms" for name in ("p50_ms", "p90_ms", "p99_ms")),
                "yes" if trial["valid"] else "no",
            ]
            for row in rows
            for trial in row["trials"]
        ],
    )
    return f"{best}\n\n{tried}" if best else ""


def http_peers(rows: Sequence[Row]) -> str:
    """Return the servers side by side, and what they do under overload."""
    side_by_side = table(
        ["model", "server", "connections", "texts/s", "of the engine", "p50", "p99", "memory", "unanswered", CHECKED],
        [
            [
                *(f"{row['model']} {row['precision']}", name_of(server), server["connections"]),
                *(number(server["texts_per_s"]), f"{server['of_engine']:.0%}"),
                *(f"{server['p50_ms']:.2f} ms", f"{server['p99_ms']:.1f} ms", f"{number(server['memory_mb'])} MB"),
                *(server["unanswered"], account(server)),
            ]
            for row in rows
            for server in row["servers"]
        ],
    )
    alone = [
        f"{row['model']} {row['precision']}: engine alone {row['engine_alone_ms']:.2f} ms for one text, "
        f"{number(row['engine_texts_per_s'])} texts/s in batches of 32; client: {row['client']}"
        for row in rows
    ]
    overload = table(
        ["model", "server", "sent", "goodput", "p99 right", "p99 refused", "client late, p99", ACCOUNT],
        [
            [
                *(f"{row['model']} {row['precision']}", name_of(server | {"ours": True})),
                f"{number(server['rate'])}/s ({server['times']:.1f} times the rate at 64)",
                f"{number(server['goodput'])}/s ({server['of_capacity']:.0%})",
                *(milliseconds(server[f"{name}_p99_ms"]) for name in ("right", "refused", "client_late")),
                account(server),
            ]
            for row in rows
            for server in row.get("overload", [])
        ],
    )
    return "\n\n".join(filter(None, (side_by_side, "\n".join(f"* {line}" for line in alone), overload)))


def request_time(rows: Sequence[Row]) -> str:
    """Return where the time of a request went on each server."""
    return table(
        [
            *("model", "server", "connections", "a request", "queue", "tokenize", "inference", "the rest"),
            *("requests a batch", "CPU of a request: client, frontend, worker", "cores idle"),
        ],
        [
            [
                *(f"{row['model']} {row['precision']}", name_of(server), server["connections"]),
                *(
                    f"{spent[name]:.2f} ms"
                    for name in ("total_ms", "queue_ms", "tokenize_ms", "inference_ms", "rest_ms")
                ),
                f"{spent['requests_a_batch']:.1f}",
                ", ".join(f"{spent['cpu_ms'][name]:.2f} ms" for name in ("client", "frontend", "worker")),
                f"{spent['idle']:.0%}",
            ]
            for row in rows
            for server in row["servers"]
            if (spent := server.get("request_time"))
        ],
    )


def milliseconds(value: float | None) -> str:
    """Format milliseconds; a dash where there are none."""
    return "-" if value is None else f"{value:.1f} ms"


def against(rows: Sequence[Row]) -> str:
    """Return the ratios of another build's times to this one's, and start and memory of both."""
    speed = table(
        ["model", "precision", "lengths", "measure", "this, texts/s", "times the other"],
        [
            [row["model"], row["precision"], entry["mix"], entry["measure"], number(entry["texts_per_s"]), ratio(entry)]
            for row in rows
            for entry in row["speed"]
        ],
    )
    start = table(
        ["model", "precision", "other", "start", "of the other", "times the other", "anonymous MB", "of the other"],
        [
            [
                *(row["model"], row["precision"], row["other"]),
                *(f"{row['start'][build]['median']:.1f} s" for build in ("this", "other")),
                ratio(row["start"]),
                *(number(row["start"]["memory"][build].get("anonymous_mb")) for build in ("this", "other")),
            ]
            for row in rows
        ],
    )
    missing = [
        f"{build} build has no compiled kernels: run scripts/setup.sh in it"
        for build in ("this", "other")
        if any(not row["kernels"][build] for row in rows)
    ]
    return "\n\n".join(filter(None, (*missing, speed, start)))


def training(rows: Sequence[Row]) -> str:
    """Return texts a second and peak memory of training by both builds."""
    return table(
        ["model", "other", "measured", "this, texts/s", "other, texts/s", "times the other", "peak MB", "of the other"],
        [
            [
                *(row["model"], row["other"], name),
                *(number(row["texts"] / row[name][build]["median"]) for build in ("this", "other")),
                ratio(row[name]),
                *(number(row["peak_mb"][build]) for build in ("this", "other")),
            ]
            for row in rows
            for name in ("steps", "epoch")
        ],
    )


def scaling(rows: Sequence[Row]) -> str:
    """Return one small table for each parameter that was varied."""
    sections = []
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
        sections.append(head + "\n\n" + table([name, "tokens/s", "time", "µs a token", "more memory"], points))
    return "\n\n".join(sections)


def number(value: float | None) -> str:
    """Format a number with three significant digits.

    >>> number(12345.6), number(0.1234), number(98.76)
    ('12,346', '0.123', '98.8')
    """
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; an empty string without rows.

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
