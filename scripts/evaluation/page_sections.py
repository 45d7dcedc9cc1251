"""The sections of the report's page: one function each, from a report to HTML; "" where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from scripts.evaluation.page_parts import Cell, cells, interval_text, number, sortable
from scripts.evaluation.plots import confusion_matrix, coverage_plot, interval_bar, reliability_diagram, share

Report = Mapping[str, Any]
MAX_MATRIX = 30  # labels of a confusion matrix that can be read


def metrics(report: Report) -> str:
    """Return every metric with its interval."""
    rows = [
        cells(
            described["title"],
            number(described["value"]),
            interval_text(described),
            "lower is better" if described["lower_is_better"] else "",
        )
        for described in report["metrics"].values()
    ]
    return sortable(["metric", "value", "95 % interval", ""], rows)


def against(report: Report) -> str:
    """Return the comparison with another model."""
    compared = report.get("against")
    if not compared:
        return ""
    other = f"{compared['model']['name']} {compared['model']['version'] or ''}".strip()
    difference, changed = compared["difference"], compared["changed_predictions"]
    lines = [
        f"The mean score differs from that of {escape(other)} by <strong>{difference['value']:+.4f}</strong> ({interval_text(difference)}).",
        f"{share(changed['value'])} of the predictions change ({interval_text(changed)}).",
    ]
    if compared["is_itself"]:
        lines.insert(0, "<strong>The same model: it is compared with itself.</strong>")
    if test := compared.get("mcnemar"):
        kind = "exact" if test["exact"] else "chi-square"
        lines.append(
            f"Only this model is right on {test['only_first']}, only the other one on {test['only_second']}: "
            f"McNemar's p = {test['p_value']:.3g} ({kind})."
        )
    rows = [
        cells(report["metrics"][key]["title"], number(value), number(compared["metrics"]["other"][key]))
        for key, value in compared["metrics"]["model"].items()
    ]
    for key, title in (("ece", "calibration error"), ("mean_confidence", "mean confidence")):
        if compared["calibration"][0] and compared["calibration"][1]:
            rows.append(cells(title, *(number(item[key]) for item in compared["calibration"])))
    html = "".join(f"<p>{line}</p>" for line in lines) + sortable(["", report["model"]["name"], other], rows)
    worse = [
        [Cell(f"{row['feature']}: {row['value']}", alert=row["worse"]), Cell(row["support"]), Cell(row["model"], share(row["model"])),
         Cell(row["other"], share(row["other"])), Cell(row["difference"], f"{100 * row['difference']:+.1f} %"), Cell(row["q_value"], f"{row['q_value']:.2g}")]
        for row in compared["slices"]
    ]  # fmt: skip
    html += "<h3>Slices of both</h3>" + sortable(
        ["slice", "support", "this", "other", "difference", "corrected p"], worse
    )
    changes = [cells(row["from"], row["to"], row["count"]) for row in compared["changes"]]
    return html + ("<h3>Changed predictions</h3>" + sortable(["other", "this", "count"], changes) if changes else "")


def calibration(report: Report) -> str:
    """Return the reliability diagram, accuracy against coverage, and the errors."""
    measured = report["calibration"]
    if not measured:
        return ""
    rows = [
        cells("ECE, bins of equal width", number(measured["ece"]["value"]), interval_text(measured["ece"])),
        cells(
            "ECE, bins of equal mass",
            number(measured["ece_equal_mass"]["value"]),
            interval_text(measured["ece_equal_mass"]),
        ),
        cells("Brier score of right or wrong", number(measured["binary_brier"]), ""),
        cells("mean confidence", number(measured["mean_confidence"]), ""),
        cells("accuracy", number(measured["accuracy"]), ""),
        cells("area of risk against coverage", number(measured["aurc"]), ""),
    ]
    if ranked := measured["auroc_right_wrong"]:
        rows.append(
            cells("AUROC: does confidence tell right from wrong", number(ranked["value"]), interval_text(ranked))
        )
    scope = report.get("out_of_scope")
    if scope:
        by = "" if scope["abstain_by"] == "score" else f" (by {scope['abstain_by']}, as min_confidence)"
        title = f"AUROC: does confidence{by} tell {scope['texts']} texts out of scope"
        rows.append(cells(title, number(scope["auroc"]["value"]), interval_text(scope["auroc"])))
    plots = (
        f"<figure>{reliability_diagram(measured['bins'])}<figcaption>Reliability: the black line is the accuracy of the answers of a confidence, "
        "orange how far it is from that confidence. Below: how many answers.</figcaption></figure>"
        f"<figure>{coverage_plot([(report['model']['name'], measured['coverage'])])}<figcaption>Accuracy of the answers that remain "
        "where those below a confidence are withheld.</figcaption></figure>"
    )
    return f'<div class="plots">{plots}</div>' + sortable(["measure", "value", "95 % interval"], rows)


def slices(report: Report) -> str:
    """Return the slices, worst first."""
    rows = [
        [
            Cell(row["feature"]),
            Cell(row["value"], alert=row["weak"]),
            Cell(row["support"]),
            Cell(row["score"]["value"], share(row["score"]["value"])),
            Cell("", html=interval_bar(row["score"], alert=row["weak"])),
            Cell(row["rest"], share(row["rest"])),
            Cell(row["q_value"], f"{row['q_value']:.2g}" + (" weak" if row["weak"] else "")),
        ]
        for row in report["slices"]
    ]
    if not rows:
        return "<p>No column, length or script divides the examples into groups of ten or more.</p>"
    note = f"<p class=quiet>{escape(report['task']['score'].capitalize())} of the examples of each group against all others, with the p-value corrected for {len(rows)} comparisons (Benjamini, Hochberg).</p>"
    return note + sortable(
        ["of", "slice", "support", report["task"]["score"], "95 % interval", "others", "corrected p"], rows
    )


def fairness(report: Report) -> str:
    """Return the gaps between groups, and what swapped terms change."""
    measured = report.get("fairness")
    if not measured:
        return ""
    html = ""
    for column in measured["columns"]:
        rows = [
            [
                Cell(row["group"]),
                Cell(row["support"]),
                Cell(row["score"]["value"], share(row["score"]["value"])),
                Cell("", html=interval_bar(row["score"])),
            ]
            for row in column["groups"]
        ]
        gap = column["gap"]
        chance = "more than chance explains" if column["q_value"] < 0.05 else "which may be chance"
        html += f"<h3>{escape(column['column'])}</h3><p>Gap {share(gap['value'])} (corrected p = {column['q_value']:.2g}, {chance})."
        for key, title in (
            ("demographic_parity_difference", "demographic parity"),
            ("equalized_odds_difference", "equalized odds"),
        ):
            if key in column:
                html += f" Largest difference of {title} over the labels: {share(column[key]['value'])}."
        html += "</p>" + sortable(["group", "support", report["task"]["score"], "95 % interval"], rows)
    swapped = [
        [Cell(row["from"]), Cell(row["to"]), Cell(row["texts"]), Cell(row["changed_predictions"]["value"], share(row["changed_predictions"]["value"])),
         Cell("", html=interval_bar(row["changed_predictions"])), Cell(row["score_difference"], f"{100 * row['score_difference']:+.1f} %"), Cell(rows_text(row["rows"]))]
        for row in measured["terms"]
        if "changed_predictions" in row
    ]  # fmt: skip
    if swapped:
        html += "<h3>Swapped terms</h3>" + sortable(
            ["term", "instead", "texts", "changed", "95 % interval", "score", "rows"], swapped
        )
    elif measured["terms"]:
        html += "<p>No text holds any of the terms.</p>"
    return html


def robustness(report: Report) -> str:
    """Return what each perturbation does."""
    if not report.get("robustness"):
        return ""
    rows = []
    for row in report["robustness"]:
        kept, changed = row.get("kept"), row.get("changed_predictions")
        alert = bool(kept and kept["upper"] is not None and kept["upper"] < 0.95)
        rows.append(
            [
                Cell(row["name"], alert=alert),
                Cell(row["changed_texts"]),
                Cell(kept["value"] if kept else 2, share(kept["value"]) if kept else "-"),
                Cell("", html=interval_bar(kept, alert=alert, highest=1.1) if kept else ""),
                Cell(changed["value"] if changed else -1, share(changed["value"]) if changed else "-"),
                Cell("", html=interval_bar(changed, alert=alert) if changed else ""),
            ]
        )
    note = "<p class=quiet>On the texts that a perturbation changes: kept accuracy is the score after it over the score before.</p>"
    return note + sortable(
        ["perturbation", "texts", "kept", "95 % interval", "changed predictions", "95 % interval"], rows
    )


def labels(report: Report) -> str:
    """Return precision and recall by label, and the confusions."""
    details = report["details"]
    by_label = details.get("labels") or []
    if not by_label:
        return ""
    header = ["label", "support"]
    kinds = [key for key in ("wrong_type", "wrong_boundary", "wrong_both", "missed", "spurious") if key in by_label[0]]
    numbers = [key for key in ("exact_match", "f1", "answered") if key in by_label[0] and "recall" not in by_label[0]]
    rows = []
    for row in by_label:
        made = [Cell(row["label"]), Cell(row["support"])]
        if "recall" in row:
            for key in ("precision", "recall"):
                value = (row[key] or {}).get("value")
                made += [Cell(-1 if value is None else value, share(value)), Cell("", html=interval_bar(row[key]))]
            made.append(Cell(row["f1"], f"{row['f1']:.3f}"))
        for key in numbers:
            value = row[key]["value"] if isinstance(row[key], Mapping) else row[key]
            made.append(Cell(value, share(value)))
        rows.append(made + [Cell(row[key]) for key in kinds])
    header += (
        ["precision", "", "recall", "", "F1"] if "recall" in by_label[0] else [key.replace("_", " ") for key in numbers]
    )
    html = sortable(header + [key.replace("_", " ") for key in kinds], rows)
    matrix = details.get("confusion")
    if matrix and len(matrix["labels"]) <= MAX_MATRIX:
        html += f'<h3>Confusion</h3><p class="quiet">Rows are the targets, columns the predictions.</p><div class="scroll">{confusion_matrix(matrix["labels"], matrix["matrix"])}</div>'
    if details.get("confusions"):
        pairs = [cells(row["target"], row["predicted"], row["count"]) for row in details["confusions"]]
        html += "<h3>Most frequent confusions</h3>" + sortable(["target", "predicted", "count"], pairs)
    return html


def mistakes(report: Report, texts: Mapping[int, str]) -> str:
    """Return the most confident mistakes by row."""
    rows = []
    for row in report["mistakes"]:
        made = [Cell(row["row"]), Cell(row["target"]), Cell(row["predicted"])]
        if row["confidence"] is not None:
            made.append(Cell(row["confidence"], f"{row['confidence']:.3f}"))
        else:
            made.append(Cell(row["score"], f"{row['score']:.3f}"))
        rows.append(made + ([Cell(texts.get(row["row"], ""))] if texts else []))
    if not rows:
        return "<p>There is none.</p>"
    kind = "confidence" if report["mistakes"][0]["confidence"] is not None else "score"
    note = "" if texts else "<p class=quiet>By row number: --with-text shows the texts here.</p>"
    return note + sortable(["row", "target", "predicted", kind, *(["text"] if texts else [])], rows)


def data(report: Report, texts: Mapping[int, str]) -> str:
    """Return suspicious labels, duplicates and leakage."""
    html = ""
    issues = report.get("label_issues")
    if issues:
        rows = [
            [Cell(row["row"]), Cell(row["label"]), Cell(row["suggested"]), Cell(row["probability_of_label"], f"{row['probability_of_label']:.3f}"),
             *([Cell(texts.get(row["row"], ""))] if texts else [])]
            for row in issues
        ]  # fmt: skip
        html += "<h3>Labels that look wrong</h3><p class=quiet>Confident learning (Northcutt, Jiang, Chuang 2021), the least likely label first.</p>"
        html += sortable(["row", "label", "model", "probability of label", *(["text"] if texts else [])], rows)
    elif issues is not None:
        html += "<p>No label looks wrong.</p>"
    repeated = report["duplicates"]
    html += f"<h3>Duplicates</h3><p>{repeated['repeated']} texts repeat another one; {repeated['conflicting_groups']} groups of equal texts have different targets"
    if repeated["conflicting"]:
        html += ": rows " + "; ".join(rows_text(group) for group in repeated["conflicting"][:20])
    html += ".</p>"
    if leak := report.get("leakage"):
        html += f"<h3>Leakage</h3><p>{leak['equal']} of {leak['texts']:,} texts are in the training data ({leak['training_texts']:,} texts), {leak['near']} more nearly."
        if leak["score_without"]:
            html += f" Without them the {escape(report['task']['score'])} is {share(leak['score_without']['value'])} ({interval_text(leak['score_without'])})."
        html += f"</p><p class=quiet>Rows {rows_text([*leak['equal_rows'], *leak['near_rows']]) or 'none'}</p>"
    return html


def privacy(report: Report) -> str:
    """Return membership inference and counts of personal data."""
    html = ""
    if member := report.get("membership"):
        area = member["auc"]
        html += (
            f"<p>Membership inference by loss: AUC <strong>{number(area['value'])}</strong> ({interval_text(area)}), 0.5 tells nothing. "
            f"{escape(report['task']['score'].capitalize())}: {share(member['score_members'])} of {member['members']:,} training examples, {share(member['score_others'])} of the others.</p>"
        )
    rows = [
        cells(file, kind, count) for file, kinds in report["personal_data"].items() for kind, count in kinds.items()
    ]
    if rows:
        return html + sortable(["file", "personal data", "examples"], rows)
    return html + "<p>No text seems to hold an e-mail address, a telephone number, a payment card or an IBAN.</p>"


def explanations(report: Report) -> str:
    """Return comprehensiveness and sufficiency."""
    measured = report.get("faithfulness")
    if not measured:
        return ""
    rows = [
        cells(
            title,
            number(measured[key]["value"]),
            interval_text(measured[key]),
            number(measured[f"{key}_random"]["value"]),
            better,
        )
        for key, title, better in (
            ("comprehensiveness", "score lost without the important words", "high is good"),
            ("sufficiency", "score lost with the important words alone", "low is good"),
        )
    ]
    note = f"<p class=quiet>On {measured['texts']} texts; ERASER's comprehensiveness and sufficiency, means over 1 to 50 % of the words.</p>"
    return note + sortable(["", "attributions", "95 % interval", "random words", ""], rows)


def cost(report: Report) -> str:
    """Return throughput, latency and bytes."""
    measured = report["cost"]
    rows = [
        cells(
            f"texts a second, {measured['texts_per_request']} a request, {measured['requests_at_once']} at once",
            f"{measured['texts_per_second']:,.1f}",
        ),
        cells("p50 of one text alone", f"{measured['p50_ms']:.1f} ms"),
        cells("p99 of one text alone", f"{measured['p99_ms']:.1f} ms"),
    ]
    if measured["bytes"]:
        rows.append(cells("size of the model", f"{measured['bytes'] / 1e6:,.1f} MB"))
    return sortable(["", ""], rows)


def rows_text(rows: Sequence[int], most: int = 20) -> str:
    """Return numbers of rows as text."""
    return ", ".join(map(str, rows[:most])) + (" ..." if len(rows) > most else "")
