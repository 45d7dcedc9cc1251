"""RequestState -> Response: decodes outputs into answers, and writes answers, explanations or the error."""

from __future__ import annotations

from handler import explain, protocol
from handler.confidence import answer_features, input_features
from handler.errors import AnswerTooLong, InternalError, RequestError, attempt
from handler.protocol import JSON, AnswerSerializer, ModelId, ResponseBody
from handler.request_state import ItemState, RequestState, Response
from handler.tasks import Task
from handler.telemetry import BatchReport

MAX_REPEATED = 16_000_000  # characters of texts that the answers to one request repeat


class ResponseWriter:
    """Writes the responses of one model."""

    def __init__(self, model: ModelId, max_bytes: int | None = None) -> None:
        """Keep the model's name and the size of the largest answer that the server accepts; None: any size."""
        self.model = model
        self.max_bytes = max_bytes

    def write(self, state: RequestState, report: BatchReport) -> Response:
        """Return the response of one request, without headers of the batch; count its labels or its error."""
        answers = decode(state)
        if not state.error:
            _count(state, answers, report)
            body = attempt("writing", self._serialize, state, answers)  # fails e.g. for a model that answers NaN
            if isinstance(body, ResponseBody):
                return Response(body.content, headers=body.headers)
            state.failure = body
        error = state.error or InternalError("no answer was computed")
        report.refused[error.type] += 1
        message = str(error).encode("ascii", "replace").decode()[:200]
        content = protocol.serialize_error(error, _error_codec(state))
        return Response(content, error.status, error.phrase, {"x-error-message": message})

    def _serialize(self, state: RequestState, answers: list[JSON]) -> ResponseBody:
        if state.body is None:
            raise InternalError("no answer was computed")
        if state.asks_metadata:
            task, model = state.task, self.model
            metadata = protocol.OPEN_INFERENCE.metadata(
                model.name, [model.version], task.fields, task.answer_format, task.parameters
            )
            return ResponseBody(protocol.serialize_value(metadata))
        if state.request.explain:
            explanations = explain_answers(state, answers)
            body = protocol.serialize_explanations(state.body, answers, explanations, self.model)
        else:
            body = protocol.serialize(state.body, answers, self.model, state.task.answer_format)
        if self.max_bytes is not None and len(body.content) > self.max_bytes:
            fewer = "fewer texts at once" if len(answers) > 1 else "a shorter text"
            smaller = "a smaller top_k" if "top_k" in state.task.parameters else "less for each"
            raise AnswerTooLong(
                f"the answer has {len(body.content)} bytes, accepted: at most {self.max_bytes} "
                f"(max_response_size of TorchServe): send {fewer}, or ask for {smaller}"
            )
        return body


def decode(state: RequestState) -> list[JSON]:
    """Return the answer of every item; where one has an error, an object that holds it."""
    answers: list[JSON] = []
    n_repeated = 0
    for item in [] if state.error else state.items:
        answer = _decode_item(state.task, item)
        answers.append(answer)
        n_repeated += 0 if item.error else state.task.n_repeated(answer)
        if n_repeated > MAX_REPEATED:  # a text of 100 kB can stand in 200 answers
            state.failure = AnswerTooLong(
                f"the answers repeat more than {MAX_REPEATED} characters of the texts: send fewer texts at once, "
                "or ask for a smaller top_k"
            )
            return []
    return answers


def explain_answers(state: RequestState, answers: list[JSON]) -> list[JSON]:
    """Return the explanation of every answer; an answer that is an error stays as it is."""
    return [
        explain.to_json(state.task, item.query, answer, item.attributions, item.explain_options["top_words"])
        if item.query and item.explain_options and not item.error
        else answer
        for item, answer in zip(state.items, answers, strict=True)
    ]


def _decode_item(task: Task, item: ItemState) -> JSON:
    if item.query and not item.error:
        answer = attempt("decoding", task.decode, item.query, item.sequence_outputs())
        if not isinstance(answer, RequestError):
            return answer
        item.error = answer
    return {"error": protocol.PLAIN.serialize_error(item.error)} if item.error else None


def _count(state: RequestState, answers: list[JSON], report: BatchReport) -> None:
    """Count what tells drift, and how many answers abstained."""
    for item, answer in zip(state.items, answers, strict=True):
        if item.error or item.query is None:
            continue
        if top_label := state.task.top_label(answer):
            label, score = top_label
            report.labels[label] += 1
            report.score_sum += score
        if item.query.parameters.get("min_confidence") is not None:
            report.n_judged += 1
            parts = answer if isinstance(answer, list) else [answer]
            report.n_abstained += bool(parts) and all(part["abstained"] for part in parts)
        calibration = state.task.calibration
        if calibration and calibration.reference:
            encodings = [encoding for _, encoding in item.sequences]
            report.observe(input_features(encodings, state.task.tokenizer.unknown_id), calibration.reference)
            report.observe(answer_features(state.task.judgements(item.query, answer)), calibration.reference)


def _error_codec(state: RequestState) -> AnswerSerializer:
    """Return the codec of an error: that of the body as far as it was parsed, and of the route on KServe's routes."""
    codec = state.body.codec if state.body else protocol.PLAIN
    if state.request.kserve and codec is not protocol.KSERVE_V1:
        return protocol.OPEN_INFERENCE
    return codec
