#!/usr/bin/env bash
# Surprise: with adaptive batching a request is answered by the parameters of another: those of a request are merged,
#   the last one wins, and a request without any gets them too. Parameters of an input become a list, in which a request
#   without the parameter leaves no place.
# Versions: mlserver 1.7.1.
# Users: send what differs between requests as an input (one value a text), or leave max_batch_size at 0 for models that
#   read parameters.
# Source: mlserver/batching/requests.py merges the dictionaries of the requests; the documentation tells of inputs only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'mlserver==1.7.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import asyncio
from importlib.metadata import version

from mlserver import MLModel, ModelSettings
from mlserver.batching import load_batching
from mlserver.context import model_context
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

print("mlserver", version("mlserver"))
print("guess: a request is answered by its own parameters")
batches = []


class Model(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = payload.inputs[0]
        batches.append((texts.shape, getattr(texts.parameters, "language", None)))
        threshold = str(getattr(payload.parameters, "threshold", None))
        n_texts = texts.shape[0]
        return InferenceResponse(model_name="model", outputs=[ResponseOutput(name="threshold", shape=[n_texts], datatype="BYTES", data=[threshold] * n_texts)])


def request(parameters, of_input) -> InferenceRequest:
    make = lambda values: Parameters(**values) if values else None
    text = RequestInput(name="text", shape=[1], datatype="BYTES", data=["a text"], parameters=make(of_input))
    return InferenceRequest(parameters=make(parameters), inputs=[text])


async def answers(max_batch_size: int) -> list[str]:
    model = Model(ModelSettings(name="model", implementation=Model, max_batch_size=max_batch_size, max_batch_time=10.0 * (max_batch_size > 1)))
    if max_batch_size > 1:
        await load_batching(model)
    requests = [request({"threshold": 0.9}, {"language": "de"}), request({}, {}), request({"threshold": 0.1}, {"language": "fr"})]
    with model_context(model.settings):
        replies = await asyncio.gather(*map(model.predict, requests))
    return [reply.outputs[0].data.root[0] for reply in replies]


alone, together = asyncio.run(answers(0)), asyncio.run(answers(3))
print("seen: thresholds alone", alone, "in a batch", together, "languages of its three texts", batches[-1][1])
assert alone == ["0.9", "None", "0.1"] and together == ["0.1"] * 3 and batches[-1] == ([3], ["de", "fr"])
PYTHON
