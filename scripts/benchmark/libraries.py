"""Peers of the comparison: this package, transformers, and each library that is installed, each at its best."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from handler.engine.config_problems import read_config
from handler.predictor import Predictor
from scripts.benchmark import exported, machine
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.peers import Labels, Logits, Peer, PeerTokenizer, fixed_length
from scripts.benchmark.texts import SOURCES, read_texts, short_texts
from scripts.cli.console import say


def installed_peers(
    model: BenchmarkModel, loaded: dict[str, Predictor], device: torch.device
) -> tuple[list[Peer], list[str]]:
    """Return this package at every precision and the peers that are installed; and reasons for the others."""
    peers = [
        Peer(f"packed {precision}", partial(_packed, model, predictor), ours=True)
        for precision, predictor in loaded.items()
    ]
    tokenizer = PeerTokenizer(model)
    load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
    classifier = load(model.model_folder, local_files_only=True).eval().to(device)
    logits = partial(_logits, classifier, device)
    pipe: Any = transformers.pipeline(
        "text-classification", model=classifier, tokenizer=tokenizer.tokenizer, device=device
    )
    peers += [
        Peer("padded to 128 or 512, as the official handler", partial(_fixed, tokenizer, logits), max_texts=8),
        Peer("pipeline, padded to the longest", partial(_pipeline, pipe, dict(classifier.config.label2id))),
        Peer("sorted, padded to the longest", partial(tokenizer.label, logits)),
    ]
    skipped = []
    for library, build in LIBRARIES.items() if device.type == "cpu" else ():
        reason = machine.missing(library)
        if not reason:
            try:
                peers += build(model, tokenizer, torch.get_num_threads())
            except Exception as error:  # noqa: BLE001 - each library has errors of its own; the others are still measured
                reason = f"{library} is skipped for {model.name}: {type(error).__name__}: {_first_line(error)}"
                say(reason)
        skipped += [reason] if reason else []
    return peers, skipped


def in_streams(tokenizer: PeerTokenizer, one: Logits, streams: Logits, threads: int) -> dict[str, Any]:
    """Return how a peer labels: by one stream of all threads, and by as many streams as there are threads."""
    label = partial(tokenizer.label, one)
    if threads == 1:
        return {"label": label}
    return {"label": label, "streams": partial(tokenizer.label_in_streams, streams, ThreadPoolExecutor(threads))}


def calibration(tokenizer: PeerTokenizer) -> list[exported.Arrays]:
    """Return training texts, one a batch."""
    texts = short_texts(read_texts(SOURCES[0]), 96, seed=1)
    return [arrays for _, arrays in tokenizer.batches(texts, 1)]


def onnxruntime(model: BenchmarkModel, tokenizer: PeerTokenizer, threads: int) -> list[Peer]:
    """Return ONNX Runtime in fp32 and in dynamic int8."""
    peers = []
    for name, path in _onnx(model).items():
        one, single = (partial(_session, exported.onnx_session(path, number)) for number in (threads, 1))
        peers.append(Peer(f"ONNX Runtime {name}", **in_streams(tokenizer, one, single, threads)))
    return peers


def openvino(model: BenchmarkModel, tokenizer: PeerTokenizer, threads: int) -> list[Peer]:
    """Return OpenVINO as it comes and in static int8."""
    say(f"peers {model.name}: converting to OpenVINO and calibrating int8")
    fp32 = exported.to_openvino(model.model_folder)
    int8 = exported.to_static_int8(fp32, calibration(tokenizer))
    peers = []
    for name, graph in (("OpenVINO as it comes", fp32), ("OpenVINO + NNCF static int8", int8)):
        one, several = (exported.openvino_compiled(graph, threads, streams) for streams in (1, threads))
        streams = partial(_requested, threading.local(), several)
        peers.append(Peer(name, **in_streams(tokenizer, partial(_compiled, one), streams, threads)))
    return peers


def ctranslate2(model: BenchmarkModel, tokenizer: PeerTokenizer, threads: int) -> list[Peer]:
    """Return CTranslate2 at every precision of this CPU, with the head computed by numpy.

    Raises:
        ValueError: the model is no BERT with a pooler and one layer as its head.
    """
    family = read_config(model.model_folder).model_type
    if family != "bert":
        raise ValueError(f"only the head of bert is computed for it, not that of {family}")
    say(f"peers {model.name}: converting to CTranslate2")
    folder = exported.to_ctranslate2(model.model_folder, model.scratch / "ctranslate2")
    load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
    layer = load(model.model_folder, local_files_only=True).classifier
    head = (layer.weight.detach().numpy().T, layer.bias.detach().numpy())
    peers = []
    for precision in exported.ctranslate2_precisions():
        one, several = (
            partial(_headed, exported.ctranslate2_encoder(folder, precision, threads, streams), head)
            for streams in (1, threads)
        )
        peers.append(
            Peer(f"CTranslate2 {NAMES.get(precision, precision)}", **in_streams(tokenizer, one, several, threads))
        )
    return peers


def fastembed(model: BenchmarkModel, tokenizer: PeerTokenizer, threads: int) -> list[Peer]:
    """Return fastembed on the files of ONNX Runtime, with its own tokenizing and batches; texts are sorted before."""
    n_labels = len(read_config(model.model_folder).id2label or {})
    peers = []
    for name, path in _onnx(model).items():
        folder = model.scratch / f"fastembed-{path.stem}"
        exported.to_fastembed(model.model_folder, path, folder, tokenizer.max_length)
        one, single = (exported.fastembed_model(folder, path.name, n_labels, number) for number in (threads, 1))
        streams = partial(_embedded_in_streams, single, ThreadPoolExecutor(threads))
        peers.append(Peer(f"fastembed {name}", partial(_embedded, one), streams=streams if threads > 1 else None))
    return peers


def torchao(model: BenchmarkModel, tokenizer: PeerTokenizer, threads: int) -> list[Peer]:
    """Return torchao's two int8 quantizations, compiled by inductor, which takes one to four minutes.

    In streams of one thread alone: the number of threads is compiled in, and one stream of two threads was slower (558
    against 843 short texts a second of the small model in static int8, 2026-11-28).
    """
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    peers = []
    for name, build in (
        ("torchao dynamic int8, compiled", exported.to_torchao_dynamic_int8),
        ("torchao static int8, compiled", partial(exported.to_torchao_static_int8, calibration=calibration(tokenizer))),
    ):
        say(f"peers {model.name}: compiling {name}")
        run = partial(_tensors, build(model.model_folder))
        with _threads(1):  # in this thread: inductor's settings are those of a thread, and freezing is one
            for size in (4, 1):  # it compiles anew for one text; an error of the compiler is one of this peer
                tokenizer.label(run, ["first", "second"] * 2, size)
        peers.append(Peer(name, partial(tokenizer.label_in_streams, run, pool)))
    return peers


LIBRARIES: dict[str, Callable[[BenchmarkModel, PeerTokenizer, int], list[Peer]]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ctranslate2": ctranslate2,
    "fastembed": fastembed,
    "torchao": torchao,
}
NAMES = {"float32": "fp32", "bfloat16": "bf16"}


def _onnx(model: BenchmarkModel) -> dict[str, Path]:
    """Return the ONNX files of a model by precision, which two libraries read."""
    fp32, int8 = model.scratch / "model.onnx", model.scratch / "int8.onnx"
    if not int8.is_file():
        say(f"peers {model.name}: exporting to ONNX")
        exported.to_onnx(model.model_folder, fp32)
        exported.to_dynamic_int8(fp32, int8)
    return {"fp32": fp32, "dynamic int8": int8}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Set the number of threads of PyTorch meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


@torch.inference_mode()
def _logits(classifier: Any, device: torch.device, arrays: exported.Arrays) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = (
        classifier(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()}).logits.cpu().numpy()
    )
    return logits


def _fixed(tokenizer: PeerTokenizer, logits: Logits, texts: Sequence[str], size: int) -> Labels:
    longest = max(arrays["input_ids"].shape[1] for _, arrays in tokenizer.batches(texts, len(texts)))
    return tokenizer.label(logits, texts, size, in_order=False, to=fixed_length(longest))


def _packed(model: BenchmarkModel, predictor: Predictor, texts: Sequence[str], _: int) -> Labels:
    outputs = predictor.engine.run(model.encode(texts))
    return np.array([np.asarray(output).reshape(-1).argmax() for output in outputs], np.intp)


def _pipeline(pipe: Any, label_ids: dict[str, int], texts: Sequence[str], size: int) -> Labels:
    answers = pipe(list(texts), batch_size=size, truncation=True)
    return np.array([label_ids[answer["label"]] for answer in answers], np.intp)


def _session(session: Any, arrays: exported.Arrays) -> Any:
    inputs = {port.name for port in session.get_inputs()}
    return session.run(None, {name: array for name, array in arrays.items() if name in inputs})[0]


def _compiled(compiled: Any, arrays: exported.Arrays) -> Any:
    return compiled(arrays)[0]


def _requested(requests: threading.local, compiled: Any, arrays: exported.Arrays) -> Any:
    """Compute by a request of the calling thread: those of different threads run in different streams."""
    if not hasattr(requests, "own"):
        requests.own = compiled.create_infer_request()
    return requests.own.infer(arrays)[0].copy()


def _headed(encoder: Any, head: tuple[Any, Any], arrays: exported.Arrays) -> Any:
    weight, bias = head
    return exported.ctranslate2_pooled(encoder, arrays) @ weight + bias


@torch.no_grad()
def _tensors(model: Any, arrays: exported.Arrays) -> Any:
    return model(*(torch.from_numpy(arrays[name]) for name in exported.INPUTS)).numpy()


def _embedded(embedding: Any, texts: Sequence[str], size: int) -> Labels:
    """Label texts by embeddings that are logits, the shortest texts first."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    labels = np.empty(len(texts), np.intp)
    rows = embedding.embed([texts[row] for row in order], batch_size=size)
    labels[order] = np.stack(list(rows)).argmax(-1)
    return labels


def _embedded_in_streams(embedding: Any, pool: ThreadPoolExecutor, texts: Sequence[str], size: int) -> Labels:
    """Label texts by calls for one micro-batch each, which the threads of a pool make, the longest texts first."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    labels = np.empty(len(texts), np.intp)
    each = pool.map(lambda batch: _embedded(embedding, [texts[row] for row in batch], size), batches)
    for batch, rows in zip(batches, each, strict=True):
        labels[batch] = rows
    return labels
