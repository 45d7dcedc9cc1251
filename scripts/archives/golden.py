"""The expected outputs of an archive's self-test: those of the reference, with which the served model must agree.

If tokens or answers of the two differ, nothing is packed: a fault of the handler cannot become an expectation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from handler import archive
from handler.config import ServingConfig
from handler.errors import InputTooLong, InvalidInput, RequestError
from handler.predictor import Predictor
from handler.protocol import JSON, Body, serialize_value
from handler.request_state import Request
from handler.sequences import Encoding, EncodingOptions
from scripts.archives.reference import Reference
from scripts.archives.reference_late import LateReference
from scripts.archives.reference_tokens import Window
from scripts.cli.console import ScriptError

TOLERANCE = 1e-4  # of numbers in fp32
SAMPLE_TEXTS = (  # whose tokens are compared beside those of the self-test
    "The Quick BROWN Fox's 3rd letter, e.g. Ph.D. & co. (2024-01-31)",
    "Straße İstanbul ÀÉÎÕÜ ﬁne ½ Ⅷ ①",
    "e\u0301te\u0301 nai\u0308ve cafe\u0301",
    "中文字符 日本語の文 한국어 텍스트",
    "मैं हिन्दी ภาษาไทย שָׁלוֹם مَرْحَبًا",
    "🙂 👩‍👩‍👧‍👦 🇩🇪",
    " two  blanks\ttab\n\nlines ",
    "a\u00a0b\u200bc \ufeffd",
    "https://example.org/a?b=c&d=1 me@example.org #tag @name",
    "don't well-known 1,299.00€ $5 50%",
    "[CLS] <s> </s> [SEP] [MASK] <mask> [UNK]",
    "x" * 120,
    " ".join(map(str, range(1200))),  # of which the model reads the beginning, or the end
)


def golden_outputs(predictor: Predictor) -> archive.Golden:
    """Return what a model answers to the self-test inputs of its task, without those that its limits refuse."""
    task = predictor.task
    golden = archive.Golden([], dict(task.self_test_parameters), [])
    refusals: list[str] = []
    for item in predictor.task.self_test_items:
        try:
            golden.answers.extend(predictor.answer_items([item], golden.parameters))
            golden.items.append(item)
        except (InputTooLong, InvalidInput) as error:
            refusals.append(str(error))
    if not golden.items:
        raise ScriptError(f"with these settings the model answers no input of the self-test: {refusals[0]}")
    return golden


def expected_outputs(folder: Path, config: ServingConfig, served: Predictor) -> archive.Golden:
    """Return the inputs of the self-test and what the reference answers to them.

    Args:
        folder: of the model.
        config: the settings of the model.
        served: the model as a worker would serve it, in fp32. Inputs that its limits refuse are left out.

    Raises:
        ScriptError: tokens or answers of the two differ, or every input is refused.
    """
    golden, task = golden_outputs(served), served.task
    reference = (LateReference if task.model.embedding.late else Reference)(task, folder, config)
    for text in SAMPLE_TEXTS:
        (encodings,) = served.tokenizer.encode([(text, None)], [EncodingOptions()])
        if not isinstance(encodings, RequestError):
            _require_same_tokens(
                reference, [reference.tokenizer.encode((text, None))], encodings, f"the text {ascii(text)[:60]}"
            )
    answers = []
    for item, answer in zip(golden.items, golden.answers, strict=True):
        name = f"input {task.self_test_items.index(item)} of the self-test"
        answers.append(_expected(reference, served, item, golden.parameters, answer, name))
    return archive.Golden(golden.items, golden.parameters, answers)


def _expected(
    reference: Reference, served: Predictor, item: JSON, parameters: Mapping[str, JSON], answer: JSON, name: str
) -> JSON:
    """Return what the reference answers to an item; raises ScriptError where the handler answers something else."""
    windows = [window for of_text in reference.sequences(item, parameters) for window in of_text]
    _require_same_tokens(reference, windows, _encodings(served, item, parameters), name)
    expected, task = reference.answer(item, parameters), served.task
    if not task.answers_match(expected, answer, TOLERANCE):
        modules = " and the modules of modules.json" if task.model.has_modules else ""
        raise ScriptError(
            f"{name} has the tokens that transformers reads, but another answer than by "
            f"{type(reference.model).__name__} of transformers{modules} (eager attention, fp32): "
            f"{_difference(expected, answer)}; nothing is packed"
        )
    return expected


def rounded(golden: archive.Golden) -> archive.Golden:
    """Round every number of the answers to 5 digits: a last bit must not change the archive."""
    return archive.Golden(golden.items, golden.parameters, _round(golden.answers))


def _round(answers: JSON) -> JSON:
    if isinstance(answers, list):
        return [_round(answer) for answer in answers]
    if isinstance(answers, dict):
        return {key: _round(answer) for key, answer in answers.items()}
    return float(f"{answers:.5g}") if isinstance(answers, float) else answers


def _encodings(served: Predictor, item: JSON, parameters: Mapping[str, JSON]) -> list[Encoding]:
    body = serialize_value({"instances": [item], "parameters": dict(parameters)})
    return served.preprocess([Request(Body(body, "application/json"))]).encodings()


def _require_same_tokens(
    reference: Reference, windows: Sequence[Window], encodings: Sequence[Encoding], name: str
) -> None:
    """Raise ScriptError if the handler reads another sequence of tokens of a text than the `tokenizers` library."""
    if len(windows) != len(encodings):
        raise ScriptError(f"{name} has {len(encodings)} sequences, by tokenizers {len(windows)}; nothing is packed")
    for window, encoding in zip(windows, encodings, strict=True):
        ours, theirs = encoding.ids, window.encoding.ids
        if ours != theirs:
            position = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len({*pair}) > 1), None)
            what = f"{len(ours)} tokens, by tokenizers {len(theirs)}"
            if position is not None:
                tokens = [reference.tokenizer.backend.id_to_token(ids[position]) for ids in (ours, theirs)]
                what = f"the token {tokens[0]!r} at {position}, by tokenizers {tokens[1]!r}"
            raise ScriptError(f"{name} is read differently than tokenizer.json says: {what}; nothing is packed")
        if reference.tokenizer.has_segments and encoding.type_ids != window.encoding.type_ids:
            raise ScriptError(f"{name} has other segment ids than by the template of tokenizer.json; nothing is packed")


def _difference(expected: JSON, answer: JSON) -> str:
    """Describe how far two answers are apart."""
    scores, others = (_numbers(value) for value in (expected, answer))
    common = scores.keys() & others.keys()
    if len(scores) != len(others) or not common:
        return f"{len(others)} results instead of {len(scores)}, {len(common)} of them in both"
    return f"numbers differ by up to {max(abs(scores[key] - others[key]) for key in common):.2g}"


def _numbers(value: JSON) -> dict[str, float]:
    """Return the numbers of an answer by what they are of."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return {}
    numbers: dict[str, float] = {}
    for index, entry in enumerate(value):
        if isinstance(entry, float):
            numbers[str(index)] = entry
        elif isinstance(entry, list):
            numbers |= {f"{index}.{key}": number for key, number in _numbers(entry).items()}
        elif isinstance(entry, dict) and "score" in entry:
            numbers[str({key: entry[key] for key in entry if key != "score"})] = float(entry["score"])
    return numbers
