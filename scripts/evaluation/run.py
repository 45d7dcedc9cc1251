"""One evaluation, from options to a report: ask, judge, measure, compare, write, hold against the gate."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any

import numpy as np

from handler.protocol import JSON
from scripts.cli.console import ScriptError, say, table
from scripts.cli.files import check_folder
from scripts.evaluation import comparison, fairness, privacy
from scripts.evaluation.answering import ANSWERS_FILE, AnswerCache, Asker
from scripts.evaluation.cost import cost
from scripts.evaluation.data import EvaluationData, read
from scripts.evaluation.duplicates import duplicates, leakage
from scripts.evaluation.faithfulness import faithfulness
from scripts.evaluation.gate import GateCheck, checks, read_gate
from scripts.evaluation.judging import JudgedExample, Unanswered, judge
from scripts.evaluation.label_issues import suspicious_rows
from scripts.evaluation.measures import calibration_report, mistakes, out_of_scope
from scripts.evaluation.models import EvaluatedModel, described, open_model, open_other
from scripts.evaluation.output import write
from scripts.evaluation.robustness import robustness
from scripts.evaluation.slices import column_features, slices, text_features
from scripts.evaluation.statistics import bootstrap, mean_interval
from scripts.evaluation.tasks.base import EvaluationTask, Located, ModelQuestion, columns_of


def run(arguments: argparse.Namespace) -> bool:
    """Evaluate, write the report, print a summary; return whether the gate is kept."""
    limits = read_gate(arguments.gate) if arguments.gate else None
    check_folder(arguments.output)
    with ExitStack() as stack:
        try:
            report, data = evaluate(arguments, open_model(arguments, stack), stack)
        except KeyboardInterrupt:
            say(f"interrupted; the same command goes on from the answers in {arguments.output}")
            raise
    kept = checks(limits, report) if limits is not None else []
    if limits is not None:
        report["gate"] = [check.to_json() for check in kept]
    write(arguments.output, report, data, with_text=arguments.with_text)
    summary(report, kept)
    say(f"written: {arguments.output / 'report.html'}")
    return all(check.passed for check in kept)


def evaluate(
    arguments: argparse.Namespace, model: EvaluatedModel, stack: ExitStack
) -> tuple[dict[str, JSON], EvaluationData]:
    """Return the report of a model, and the data that it was asked."""
    started = time.monotonic()
    data = read(arguments, model.description, model.mask)
    examples = sample(data.examples, arguments.limit, arguments.seed)
    cache = AnswerCache(arguments.output / ANSWERS_FILE)
    stack.callback(cache.close)
    asker = Asker(model, cache, arguments.texts_per_request)
    if cache.answers:
        say(f"{cache.path} has {len(cache.answers)} answers: those are not asked again")
    began = time.monotonic()
    judged, unanswered = judge(asker, data.task, examples, data.task.unit_name)
    answering_s = time.monotonic() - began
    if not judged:
        kinds = ", ".join(unanswered.kinds)
        raise ScriptError(f"none of the {len(examples)} {data.task.unit_name} was answered: {kinds}")
    features = features_of(asker, data, judged)
    report: dict[str, JSON] = {
        "model": described(model),
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "examples": len(examples),
            "of": len(data.examples),
            "unit": data.task.unit_name,
        },
        "task": {"problem": data.problem, "title": data.task.title, "score": data.task.score_title},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "unanswered": unanswered_report(unanswered),
        **measured(data.task, judged, features, arguments.seed),
    }
    report["out_of_scope"] = out_of_scope(asker, data, judged)
    if data.used_columns:
        report["label_issues"] = suspicious_rows(data.task, judged)
    report |= data_report(arguments, asker, data, judged)
    report["fairness"] = fairness_report(arguments, asker, data.task, judged)
    if not arguments.no_robustness:
        report["robustness"] = robustness(asker, data.task, judged, arguments.seed)
    report["faithfulness"] = faithfulness(asker, data.task, judged, arguments.explain, arguments.seed)
    report["cost"] = cost(model, questions_of(model, data.task, examples), arguments.texts_per_request)
    if arguments.against:
        other = open_other(arguments, stack)
        is_itself = other.identity == model.identity
        if is_itself:
            say(f"--against {arguments.against}: {model.title} is compared with itself, so nothing differs")
        others, _ = judge(
            Asker(other, cache, arguments.texts_per_request),
            data.task,
            examples,
            f"{data.task.unit_name}: {other.title}",
        )
        report["against"] = {
            "model": described(other),
            "is_itself": is_itself,
            **comparison.compare(data.task, judged, others, features),
        }
    report["seconds"] = {"answering": round(answering_s, 1), "all": round(time.monotonic() - started, 1)}
    return report, data


def sample(examples: list[Located[Any]], limit: int | None, seed: int) -> list[Located[Any]]:
    """Return all examples, or a random sample in their order."""
    if limit is None or limit >= len(examples):
        return examples
    chosen = random.Random(seed).sample(range(len(examples)), limit)  # noqa: S311 - a sample, not a secret
    return [examples[index] for index in sorted(chosen)]


def questions_of(
    model: EvaluatedModel, task: EvaluationTask[Any], examples: Sequence[Located[Any]]
) -> list[ModelQuestion]:
    """Return every question of the examples as the model is asked."""
    extra = model.parameters_for(task.served_as)
    questions = (question for item in examples for question in task.questions(item.example))
    return [ModelQuestion(question.item, {**question.parameters, **extra}) for question in questions]


def unanswered_report(unanswered: Unanswered) -> dict[str, JSON]:
    """Return how many examples got an error, of which kinds, in which rows."""
    return {"count": len(unanswered.rows), "kinds": dict(unanswered.kinds), "rows": unanswered.rows[:100]}


def measured(
    task: EvaluationTask[Any], judged: Sequence[JudgedExample], features: Mapping[str, list[str]], seed: int
) -> dict[str, JSON]:
    """Return the metrics, the calibration, the slices, the tables and the mistakes of judged examples."""
    outcomes = [item.outcome for item in judged]
    columns = columns_of(outcomes)
    intervals = bootstrap(columns, task.measure, seed=seed)
    scores = [outcome.score for outcome in outcomes]
    return {
        "main_metric": task.main_metric,
        "score": mean_interval(scores, seed).to_json(),
        "metrics": {
            name: {
                "title": task.metric_titles[name],
                "lower_is_better": name in task.lower_is_better,
                **interval.to_json(),
            }
            for name, interval in intervals.items()
        },
        "calibration": calibration_report(outcomes, seed),
        "slices": [item.to_json() for item in slices(features, np.array(scores))],
        "details": task.details(outcomes),
        "mistakes": mistakes(judged),
    }


def features_of(asker: Asker, data: EvaluationData, judged: Sequence[JudgedExample]) -> dict[str, list[str]]:
    """Return what the examples can be sliced by: columns, length, script, unknown tokens, the label."""
    texts = [data.task.texts(item.located.example)[0] for item in judged]
    features = column_features([item.located.record for item in judged], data.used_columns)
    operations = asker.model.description["operations"]
    tokens: list[Any] = [None] * len(texts)
    word = next((word for word, task in operations.items() if task == "tokenize"), None)
    if word is not None:
        answers = asker.ask([ModelQuestion(text, {"operation": word}) for text in texts], "tokens")
        tokens = [answer if "n_tokens" in answer else None for answer in answers]
    features |= {name: values for name, values in text_features(texts, tokens).items() if name not in features}
    if all(len(item.outcome.target_ids) == 1 for item in judged):
        features["label"] = [item.outcome.target for item in judged]
    return features


def data_report(
    arguments: argparse.Namespace, asker: Asker, data: EvaluationData, judged: Sequence[JudgedExample]
) -> dict[str, JSON]:
    """Return duplicates, leakage, personal data and membership inference."""
    texts = [data.task.texts(item.located.example) for item in judged]
    rows, joined = [item.located.row for item in judged], ["\n".join(parts) for parts in texts]
    report: dict[str, JSON] = {
        "duplicates": duplicates(rows, joined, [item.outcome.target for item in judged]),
        "personal_data": {data.name: privacy.personal_data(texts)},
    }
    if arguments.train:
        training = read(arguments, asker.model.description, asker.model.mask, arguments.train, data.task)
        training_texts = [data.task.texts(item.example) for item in training.examples]
        found = leakage(rows, joined, ["\n".join(parts) for parts in training_texts])
        leaked = found.pop("leaked")
        unseen = [item.outcome.score for item, known in zip(judged, leaked, strict=True) if not known]
        found["score_without"] = mean_interval(unseen).to_json() if unseen else None
        report["leakage"] = found
        report["personal_data"][training.name] = privacy.personal_data(training_texts)
        report["membership"] = privacy.membership(asker, data.task, judged, training.examples, arguments.seed)
    return report


def fairness_report(
    arguments: argparse.Namespace, asker: Asker, task: EvaluationTask[Any], judged: Sequence[JudgedExample]
) -> dict[str, JSON] | None:
    """Return the gaps between groups and the effects of swapped terms; None where neither was asked for."""
    for column in arguments.groups:
        if not any(column in item.located.record for item in judged):
            raise ScriptError(f"--groups {column}: the data has no such column")
    if not arguments.groups and not arguments.terms:
        return None
    terms = fairness.read_terms(arguments.terms) if arguments.terms else []
    return {
        "columns": fairness.gaps(judged, arguments.groups, len(task.labels)),
        "terms": fairness.swaps(asker, task, judged, terms),
    }


def summary(report: Mapping[str, Any], kept: Sequence[GateCheck]) -> None:
    """Print the metrics, and what a person should look at."""
    rows = [
        [described["title"], f"{described['value']:.4f}", f"{described['lower']:.4f} to {described['upper']:.4f}"]
        for described in report["metrics"].values()
    ]
    if report["calibration"]:
        ece = report["calibration"]["ece"]
        rows.append(["calibration error (ECE)", f"{ece['value']:.4f}", f"{ece['lower']:.4f} to {ece['upper']:.4f}"])
    table(["", report["model"]["name"], "95 % interval"], rows)
    weak = [row for row in report["slices"] if row["weak"]]
    for row in weak[:5]:
        say(
            f"weak: {row['feature']} {row['value']}: {row['score']['value']:.3f} of {row['support']}, "
            f"others {row['rest']:.3f}"
        )
    if report["unanswered"]["count"]:
        say(f"{report['unanswered']['count']} {report['data']['unit']} got an error: {report['unanswered']['kinds']}")
    if report.get("label_issues"):
        say(f"{len(report['label_issues'])} labels of the data look wrong")
    for check in kept:
        say(check.line())
