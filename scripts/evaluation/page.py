"""The report as one HTML page that needs nothing but a browser: no network, no fonts, no library."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from scripts.evaluation import page_sections as parts
from scripts.evaluation.page_parts import card, cells, interval_text, number, section, sortable
from scripts.evaluation.page_style import SCRIPT, STYLE
from scripts.evaluation.plots import share

Report = Mapping[str, Any]


def page(report: Report, texts: Mapping[int, str]) -> str:
    """Return the page of a report; `texts` are those of rows, shown where the report names a row."""
    sections = [
        section(title, anchor, body)
        for title, anchor, body in (
            ("Metrics", "metrics", parts.metrics(report)),
            ("Against another model", "against", parts.against(report)),
            ("Calibration", "calibration", parts.calibration(report)),
            ("Slices", "slices", parts.slices(report)),
            ("Fairness", "fairness", parts.fairness(report)),
            ("Robustness", "robustness", parts.robustness(report)),
            ("By label", "labels", parts.labels(report)),
            ("Mistakes", "mistakes", parts.mistakes(report, texts)),
            ("The data", "data", parts.data(report, texts)),
            ("Privacy", "privacy", parts.privacy(report)),
            ("Explanations", "explanations", parts.explanations(report)),
            ("Cost", "cost", parts.cost(report)),
        )
        if body
    ]
    links = "".join(f'<a href="#{item.anchor}">{escape(item.title)}</a>' for item in sections)
    model, about = report["model"], report["data"]
    name = f"{model['name']} {model['version'] or ''}".strip()
    taken = "" if about["examples"] == about["of"] else f", a sample of {about['of']:,}"
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {escape(name)}</title>
<style>{STYLE}</style></head>
<body>
<header>
<h1>Evaluation of {escape(name)}</h1>
<p class="quiet">{escape(str(model["task"]))}, {escape(str(model["precision"]))} on {escape(str(model["device"]))};
{about["examples"]:,} {escape(about["unit"])} of {escape(about["name"])}{taken}; {escape(report["created"][:16].replace("T", " "))} UTC</p>
<nav>{links}</nav>
</header>
<main>
{cards(report)}
{gate(report)}
{findings(report)}
{"".join(item.html for item in sections)}
</main>
<footer class="quiet">Intervals are 95 %: Wilson for shares, percentile bootstrap for the rest. Rows are counted as the file's
readers count them (the header of a CSV is row 1). Model {escape(str(model["model_hash"])[:16])}, data {escape(about["sha256"][:16])}.</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def cards(report: Report) -> str:
    """Return the few numbers that a person looks for first."""
    made = []
    for key, described in report["metrics"].items():
        made.append(
            card(
                described["title"],
                number(described["value"]),
                interval_text(described),
                main=key == report["main_metric"],
            )
        )
    if report["calibration"]:
        ece = report["calibration"]["ece"]
        made.append(card("calibration error", number(ece["value"]), interval_text(ece)))
    weak = [row for row in report["slices"] if row["weak"]]
    made.append(card("weak slices", str(len(weak)), f"of {len(report['slices'])}", alert=bool(weak)))
    if report.get("against"):
        difference = report["against"]["difference"]
        made.append(
            card(
                "against the other model",
                f"{difference['value']:+.3f}",
                interval_text(difference),
                alert=difference["upper"] < 0,
            )
        )
    made.append(
        card(
            "texts a second",
            f"{report['cost']['texts_per_second']:,.0f}",
            f"p99 of one text {report['cost']['p99_ms']:.0f} ms",
        )
    )
    return f'<div class="cards">{"".join(made)}</div>'


def gate(report: Report) -> str:
    """Return the checks of the gate."""
    if not report.get("gate"):
        return ""
    failed = [check for check in report["gate"] if not check["passed"]]
    rows = [
        cells(
            "passed" if check["passed"] else "FAILED",
            check["name"],
            number(check["measured"]),
            f"{check['rule']} {check['limit']:g}",
        )
        for check in report["gate"]
    ]
    verdict = f"{len(failed)} of {len(rows)} limits are not kept" if failed else f"all {len(rows)} limits are kept"
    return f'<div class="verdict {"bad" if failed else "good"}"><strong>Gate:</strong> {verdict}{sortable(["", "limit", "measured", "accepted"], rows)}</div>'


def findings(report: Report) -> str:
    """Return one line for each thing that a person should look at."""
    lines = [
        f'<a href="#slices">{escape(row["feature"])}: {escape(row["value"])}</a> is weak: {share(row["score"]["value"])} of {row["support"]}, others {share(row["rest"])}'
        for row in report["slices"]
        if row["weak"]
    ][:4]
    for row in (report.get("fairness") or {}).get("columns", []):
        if row["q_value"] < 0.05:
            lines.append(
                f'<a href="#fairness">Groups of {escape(row["column"])}</a> differ by {share(row["gap"]["value"])}, more than chance explains'
            )
    calibrated = report["calibration"]
    if calibrated and calibrated["ece"]["lower"] > 0.02:
        kind = "higher" if calibrated["mean_confidence"] > calibrated["accuracy"] else "lower"
        lines.append(
            f'<a href="#calibration">Scores</a> are {kind} than the accuracy: {number(calibrated["mean_confidence"])} against {number(calibrated["accuracy"])} on average'
        )
    worst = next(
        (
            row
            for row in report.get("robustness") or []
            if (row.get("kept") or {}).get("upper") is not None and row["kept"]["upper"] < 0.98
        ),
        None,
    )
    if worst:
        lines.append(
            f'<a href="#robustness">{escape(worst["name"].capitalize())}</a> keeps {share(worst["kept"]["value"])} of the accuracy'
        )
    if report.get("label_issues"):
        lines.append(f'<a href="#data">{len(report["label_issues"])} labels</a> of the data look wrong')
    leak = report.get("leakage")
    if leak and leak["equal"] + leak["near"]:
        lines.append(f'<a href="#data">{leak["equal"] + leak["near"]} texts</a> are in the training data too')
    if report["unanswered"]["count"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report["unanswered"]["kinds"].items())
        lines.append(f"{report['unanswered']['count']} {escape(report['data']['unit'])} got an error: {escape(kinds)}")
    if not lines:
        return ""
    return f'<section class="findings"><h2>What to look at</h2><ul>{"".join(f"<li>{line}</li>" for line in lines)}</ul></section>'
