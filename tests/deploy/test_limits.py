"""Multiply the limits of gateway and server, and compare the products with the memory that they run in.

What one request may take times the number of requests that may be in flight must fit, or a valid load ends the process.
"""

from __future__ import annotations

import re

import yaml

from server.reading import N_READERS
from server.transport import HELD_BYTES, UNREAD_BYTES
from tests.support.gateway import CONFIG
from tests.support.samples import ROOT, read_settings

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
UNITS = {"": 1, "k": KB, "m": MB, "g": GB, "ki": KB, "mi": MB, "gi": GB}
SMALL_BODY = 99_999  # bytes that are not `bulk`
CONNECTION = 37 * KB  # of one idle client, all three servers; measured with 1,000, nginx 1.31.3, 2026-11-27
NGINX_PROCESS = 10 * MB
JAVA_ITSELF = 250 * MB  # classes, threads, code; measured idle
WORKER = 1 * GB  # PyTorch and libraries 0.5 GB, a BERT-base in fp32 0.44 GB
BATCH = 512 * MB
# The standalone server: 252 MB with a small model (docs/performance.md), a BERT-base in fp32 0.44 GB.
STANDALONE = 768 * MB
STANDALONE_BATCH = 256 * MB  # of 1,024 tokens, or of one text of 8,192
# What a body becomes, measured with the largest, 2026-11-28: 154 MB of 6.3 MB while 2.1 million empty objects are
# parsed; 73 MB of 6.5 MB while a thousand texts of 6,500 characters wait, encoded.
PARSED, ENCODED = 24.5, 11.3

SETTINGS = read_settings(ROOT / "config.properties")
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
POD = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text(encoding="utf-8"))
POD_SPEC = POD["spec"]["template"]["spec"]
MODEL = yaml.safe_load((ROOT / "model-config.yaml").read_text(encoding="utf-8"))


def size(text: str) -> int:
    """Parse a size of nginx, Java, compose or Kubernetes."""
    number, unit = re.fullmatch(r"(\d+)(\w*)", text.strip().lower()).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def setting(pattern: str, occurrence: int = 0) -> int:
    """Return the number or size that a setting of nginx.conf has."""
    return size(re.findall(pattern, CONFIG)[occurrence])


def java(option: str) -> int:
    """Return the size of an option of the Java machine."""
    (value,) = re.findall(rf"{option}=?(\d+[kmg])\b", SETTINGS["vmargs"])
    return size(value)


IN_FLIGHT = setting(r"limit_conn of_all (\d+);")
BULK = setting(r"limit_conn bulk_of_all (\d+);")
LARGEST_BODY = setting(r"client_max_body_size (\d+);")
BODIES = IN_FLIGHT * SMALL_BODY + BULK * LARGEST_BODY
LARGEST_ANSWER = int(SETTINGS["max_response_size"])


def test_small_bodies_are_what_the_pattern_says() -> None:
    """One digit more is `bulk`."""
    (digits,) = re.findall(r'"~\^\[0-9\]\{1,(\d)\}\$" "";', CONFIG)
    assert int("9" * int(digits)) == SMALL_BODY
    assert int(SETTINGS["max_request_size"]) == LARGEST_BODY == setting(r"client_body_buffer_size (\d+);")


def test_what_the_gateway_may_hold_fits_into_its_memory() -> None:
    """Bodies, responses and connections, all at once."""
    one_header = setting(r"client_header_buffer_size (\w+);")
    count, large_header = re.findall(r"large_client_header_buffers (\d+) (\w+);", CONFIG)[0]
    buffers, buffer = re.findall(r"proxy_buffers (\d+) (\w+);", CONFIG)[0]
    headers = one_header + int(count) * size(large_header)
    first_server = headers + setting(r"proxy_buffer_size (\w+);", 1) + int(buffers) * size(buffer)
    # The body buffer of the server before TorchServe, and one of responses, which it does not collect.
    second_server = headers + setting(r"client_body_buffer_size (\w+);", 1) + setting(r"proxy_buffer_size (\w+);", 1)
    processes = setting(r"worker_processes (\d+);")
    connections = setting(r"limit_conn all (\d+);")
    needed = (
        BODIES + IN_FLIGHT * (first_server + second_server) + connections * CONNECTION + (processes + 1) * NGINX_PROCESS
    )
    sidecar = POD_SPEC["initContainers"][0]["resources"]["limits"]["memory"]
    for limit in (COMPOSE["gateway"]["mem_limit"], sidecar):
        assert needed < 0.75 * size(limit), f"{needed / MB:.0f} MB of {limit}"


def test_every_connection_finds_a_slot() -> None:
    """Three slots for a client, four for a request in flight, however unevenly the processes share them."""
    connections = setting(r"limit_conn all (\d+);")
    slots = setting(r"worker_connections (\d+);")
    assert 3 * connections / 2 + 4 * IN_FLIGHT < 1.5 * slots
    assert setting(r"limit_conn address (\d+);") * 4 < connections, "one address cannot take them all"


def test_what_java_may_hold_fits_into_its_memory() -> None:
    """Bodies and one answer of each worker; each is in netty's direct memory, then on the heap."""
    workers = MODEL["maxWorkers"]
    heap = BODIES + 2 * workers * LARGEST_ANSWER
    # Bodies that arrive, the batch that leaves for the worker, an answer that arrives (its buffer grows by doubling).
    direct = 2 * BODIES + 2 * workers * LARGEST_ANSWER
    assert heap < 0.75 * java("-Xmx")
    assert direct < java("MaxDirectMemorySize")
    memory = {re.sub(r".*:-|}", "", COMPOSE["server"]["mem_limit"])}
    memory.add(POD_SPEC["containers"][0]["resources"]["limits"]["memory"])
    for limit in memory:
        assert java("-Xmx") + java("MaxDirectMemorySize") + JAVA_ITSELF + WORKER + BATCH < size(limit), limit


def test_what_the_standalone_server_may_hold_fits_into_its_memory() -> None:
    """Bodies that wait and are parsed, answers that nobody reads, a batch, and the process of the explanations."""
    waiting = HELD_BYTES * ENCODED
    parsing = N_READERS * LARGEST_BODY * PARSED
    answers = UNREAD_BYTES + LARGEST_ANSWER  # the one that is written
    needed = STANDALONE + STANDALONE_BATCH + WORKER + waiting + parsing + answers
    lean = ROOT / "deploy" / "kubernetes" / "lean" / "kustomization.yaml"
    kserve = ROOT / "deploy" / "kserve-lean" / "kustomization.yaml"
    compose = ROOT / "deploy" / "compose.lean.yaml"
    for file in (lean, kserve, compose):
        text = file.read_text(encoding="utf-8")
        (limit,) = re.findall(r"limits: \{memory: (\w+)\}|mem_limit: \$\{BERT_MEMORY:-(\w+)\}", text)
        assert needed < size("".join(limit)), f"{needed / MB:.0f} MB of {file}"
    assert HELD_BYTES > 4 * LARGEST_BODY
    assert UNREAD_BYTES > LARGEST_ANSWER, "one of the largest is never refused"


def test_the_gateway_admits_what_a_queue_takes() -> None:
    """A queue and a batch of one model, and as much again for others."""
    assert MODEL["jobQueueSize"] + MODEL["batchSize"] < IN_FLIGHT
    assert setting(r"limit_conn of_client (\d+);") < IN_FLIGHT / 2, "one client cannot take them all"
    assert setting(r"limit_conn bulk_of_client (\d+);") <= BULK / 2
