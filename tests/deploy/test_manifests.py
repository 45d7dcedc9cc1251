"""Check Compose, Kubernetes and KServe files by strict schemas and against image, gateway and settings.

`kubectl kustomize deploy/kubernetes/base` renders the files that are checked here one by one.
"""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from scripts.client.ports import PORTS
from tests.support.manifests import load, merged
from tests.support.samples import ROOT, read_settings

DEPLOY = ROOT / "deploy"
KUBERNETES = sorted([*DEPLOY.glob("kubernetes/*/*.yaml"), *DEPLOY.glob("kserve*/*.yaml")])
KUSTOMIZATIONS = sorted(DEPLOY.rglob("kustomization.yaml"))
OBJECTS = [path for path in KUBERNETES if path.name != "kustomization.yaml"]
CUSTOM = {"keda.sh/v1alpha1", "serving.kserve.io/v1alpha1", "serving.kserve.io/v1beta1"}
SERVER, GATEWAY_PORT, METRICS_PORT, GATEWAY_METRICS_PORT = "10001", 8443, 8082, 8083


def name(path: Path) -> str:
    """Return the test id of a file."""
    return str(path.relative_to(DEPLOY))


POD = load(DEPLOY / "kubernetes" / "base" / "deployment.yaml")["spec"]["template"]["spec"]
RUNTIME = load(DEPLOY / "kserve" / "runtime.yaml")["spec"]
COMPOSE = load(DEPLOY / "compose.yaml")
LEAN_COMPOSE = load(DEPLOY / "compose.lean.yaml")
REPLICAS = load(DEPLOY / "compose.replicas.yaml")
LEAN_KUSTOMIZATIONS = {name: load(DEPLOY / name / "kustomization.yaml") for name in ("kubernetes/lean", "kserve-lean")}
SIDECAR, MAIN = POD["initContainers"][0], POD["containers"][0]
CONTAINERS = [SIDECAR, MAIN, *RUNTIME["containers"]]


@pytest.mark.parametrize("version", ["1.29.0", "1.37.0"])
@pytest.mark.parametrize("path", [path for path in OBJECTS if load(path)["apiVersion"] not in CUSTOM], ids=name)
def test_objects_of_kubernetes_are_valid(path: Path, version: str) -> None:
    """By the strict schemas of the oldest and the newest supported version."""
    kubernetes_validate.validate(load(path), version, strict=True)


def test_every_other_object_has_an_expected_kind() -> None:
    kinds = {load(path)["kind"] for path in OBJECTS if load(path)["apiVersion"] in CUSTOM}
    assert kinds == {"ScaledObject", "ServingRuntime", "InferenceService"}


def test_the_pod_of_the_runtime_is_valid() -> None:
    """KServe uses the schema of Kubernetes for containers and volumes."""
    spec = {key: RUNTIME[key] for key in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.37.0", strict=True)
    assert set(RUNTIME) == {
        "supportedModelFormats",
        "protocolVersions",
        "multiModel",
        "annotations",
        "containers",
        "volumes",
    }


def test_the_service_of_kserve_uses_the_runtime() -> None:
    runtime = load(DEPLOY / "kserve" / "runtime.yaml")
    service = load(DEPLOY / "kserve" / "inferenceservice.yaml")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] == RUNTIME["supportedModelFormats"][0]["name"]
    assert model["protocolVersion"] in RUNTIME["protocolVersions"]
    policy = load(DEPLOY / "kserve" / "network.yaml")["spec"]
    assert policy["podSelector"]["matchLabels"] == {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
    assert all(rule["from"] for rule in policy["ingress"]), "every rule must name its sources"


def test_kserve_has_keys_and_the_gateway() -> None:
    """TorchServe on the loopback with its keys; the gateway has the port of KServe, and no token is mounted."""
    server, gateway = RUNTIME["containers"]
    environment = {entry["name"]: entry["value"] for entry in server["env"]}
    assert environment == {"TS_INFERENCE_ADDRESS": "http://127.0.0.1:8085"}
    variables = {entry["name"]: entry["value"] for entry in gateway["env"]}
    assert variables["TORCHSERVE"] == environment["TS_INFERENCE_ADDRESS"].removeprefix("http://")
    assert variables["GATEWAY_LISTEN"] == str(server["ports"][0]["containerPort"])
    assert gateway["command"] == SIDECAR["command"]
    assert {mount["name"] for mount in gateway["volumeMounts"]} <= {volume["name"] for volume in RUNTIME["volumes"]}
    predictor = load(DEPLOY / "kserve" / "inferenceservice.yaml")["spec"]["predictor"]
    assert predictor["automountServiceAccountToken"] is False


def test_keda_has_what_its_prometheus_trigger_needs() -> None:
    spec = load(DEPLOY / "kubernetes" / "queue" / "scaledobject.yaml")["spec"]
    scaler = load(DEPLOY / "kubernetes" / "base" / "autoscale.yaml")["spec"]
    assert spec["scaleTargetRef"] == scaler["scaleTargetRef"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (scaler["minReplicas"], scaler["maxReplicas"])
    assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == scaler["behavior"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    patched = load(DEPLOY / "kubernetes" / "queue" / "kustomization.yaml")["patches"][0]["patch"]
    assert yaml.safe_load(patched)["kind"] == "HorizontalPodAutoscaler", "two autoscalers would fight"


def replaced(value: Any, operations: list[dict[str, Any]]) -> Any:
    """Apply the operations `add` at an end and `replace` of a JSON patch."""
    value = copy.deepcopy(value)
    for operation in operations:
        *parents, last = operation["path"].split("/")[1:]
        at = value
        for key in parents:
            at = at[int(key) if isinstance(at, list) else key]
        if operation["op"] == "add":
            assert last == "-"
            at.append(operation["value"])
        else:
            assert operation["op"] == "replace"
            assert last in at
            at[last] = operation["value"]
    return value


def lean_pods() -> dict[str, dict[str, Any]]:
    """Return the containers of the pods with the standalone server, and the patched objects."""
    deployment = load(DEPLOY / "kubernetes" / "base" / "deployment.yaml")
    (patch,) = LEAN_KUSTOMIZATIONS["kubernetes/lean"]["patches"]
    deployment = merged(deployment, yaml.safe_load(patch["patch"]))
    runtime = load(DEPLOY / "kserve" / "runtime.yaml")
    (patch,) = LEAN_KUSTOMIZATIONS["kserve-lean"]["patches"]
    assert patch["target"] == {"kind": runtime["kind"], "name": runtime["metadata"]["name"]}
    runtime = replaced(runtime, yaml.safe_load(patch["patch"]))
    return {"kubernetes": deployment["spec"]["template"]["spec"], "kserve": runtime["spec"]}


@pytest.mark.parametrize("kind", ["kubernetes", "kserve"])
def test_the_lean_pods_are_valid_and_ask_the_server_for_its_health(kind: str) -> None:
    """By the truthful routes on the port of the metrics, without a process for each probe; all else as with Java."""
    spec = lean_pods()[kind]
    fields = {key: spec[key] for key in ("containers", "volumes", "initContainers") if key in spec}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": fields}
    kubernetes_validate.validate(pod, "1.37.0", strict=True)
    server = spec["containers"][0]
    gateway = (spec.get("initContainers") or spec["containers"][1:])[0]
    before = (POD if kind == "kubernetes" else RUNTIME)["containers"][0]
    routes = {"startupProbe": "ready", "readinessProbe": "ready", "livenessProbe": "live"}
    for probe, route in routes.items():
        assert "exec" not in server[probe]
        port = "metrics" if kind == "kubernetes" else METRICS_PORT
        assert server[probe]["httpGet"] == {"path": f"/v2/health/{route}", "port": port}
    longest = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
    assert longest == before["startupProbe"]["periodSeconds"] * before["startupProbe"]["failureThreshold"]
    assert {"name": "GATEWAY_SERVER", "value": "standalone"} in gateway["env"]
    assert size_of(server) < size_of(before)
    changed = {*routes, "resources"}
    assert {key: server[key] for key in server if key not in changed} == {
        key: before[key] for key in before if key not in changed
    }


def size_of(container: dict[str, Any]) -> int:
    """Return the limit of the memory in GiB."""
    return int(container["resources"]["limits"]["memory"].removesuffix("Gi"))


@pytest.mark.parametrize("folder", LEAN_KUSTOMIZATIONS)
def test_the_lean_pods_have_the_lean_image(folder: str) -> None:
    (image,) = LEAN_KUSTOMIZATIONS[folder]["images"]
    assert (image["name"], image["newName"]) == (MAIN["image"], "bert-lean")
    assert "bert-lean" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_compose_of_the_lean_image_changes_image_and_routes_alone() -> None:
    server, gateway = (LEAN_COMPOSE["services"][service] for service in ("server", "gateway"))
    assert set(LEAN_COMPOSE["services"]) == {"server", "gateway"}
    assert server == {"image": "${BERT_IMAGE:-bert-lean}", "mem_limit": "${BERT_MEMORY:-3g}"}
    assert gateway == {"environment": {"GATEWAY_SERVER": "standalone"}}
    assert "${GATEWAY_SERVER:-torchserve}" in (DEPLOY / "gateway" / "run.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=name)
def test_an_overlay_can_set_the_digest_of_an_image(path: Path) -> None:
    """kustomize finds an image again only by a digest that begins with `sha256:`; another word stays in force."""
    for image in load(path).get("images", []):
        assert re.fullmatch(r"sha256:set-[a-zA-Z0-9_.-]+", image["digest"])


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=name)
def test_every_file_of_a_kustomization_is_there(path: Path) -> None:
    """And every file in the same folder is referenced."""
    content = load(path)
    files = [*content.get("resources", [])]
    for generator in content.get("configMapGenerator", []):
        files += generator["files"]
    for file in files:
        assert (path.parent / file).exists(), file
    if path.parent.name != "gateway":
        assert {manifest.name for manifest in path.parent.glob("*.yaml")} - {"kustomization.yaml"} <= set(files)


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: str(container["name"]))
def test_every_container_is_locked(container: dict[str, Any]) -> None:
    """No capability, no privilege escalation, read-only root, a memory limit, probes."""
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert "cpu" not in container["resources"]["limits"]
    assert container["livenessProbe"]
    assert container["startupProbe"] or container["readinessProbe"]


@pytest.mark.parametrize("security", [POD["securityContext"], RUNTIME["containers"][0]["securityContext"]])
def test_every_pod_runs_as_a_numeric_user(security: dict[str, Any]) -> None:
    """The user of the image, who owns the keys."""
    assert security["runAsNonRoot"] is True
    assert str(security["runAsUser"]) == str(security["runAsGroup"]) == SERVER
    assert f"USER {SERVER}:{SERVER}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("container", CONTAINERS[1:3], ids=lambda container: str(container["name"]))
def test_a_pod_is_ready_when_a_model_answers_and_drains(container: dict[str, Any]) -> None:
    """By scripts/serve.sh, with the timeout of the image's health check; liveness never sends a prediction."""
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"] == ["/app/scripts/serve.sh", "status"]
        assert container[probe]["timeoutSeconds"] == 45
    assert os.access(ROOT / "scripts" / "serve.sh", os.X_OK)
    probe = container["livenessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) in (("/metrics", "metrics"), ("/metrics", METRICS_PORT))
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "10"]


def test_the_sidecar_is_ready_when_it_would_forward() -> None:
    """By /ping, answered from the state of TorchServe, on a port whose limits clients cannot use up."""
    ports = {port["name"]: port["containerPort"] for port in SIDECAR["ports"]}
    (metrics,) = [entry["value"] for entry in SIDECAR["env"] if entry["name"] == "GATEWAY_METRICS"]
    assert SIDECAR["readinessProbe"]["httpGet"] == {"path": "/ping", "port": "gateway-metrics"}
    assert ports["gateway-metrics"] == int(metrics)
    assert RUNTIME["containers"][1]["readinessProbe"]["httpGet"] == {"path": "/ping", "port": int(metrics)}


def test_the_grace_period_covers_a_drain() -> None:
    """It covers preStop, the grace of serve.sh and the exit of Java."""
    (grace,) = re.findall(r"^grace=(\d+)$", (ROOT / "scripts" / "serve.sh").read_text(encoding="utf-8"), re.MULTILINE)
    predictor = load(DEPLOY / "kserve" / "inferenceservice.yaml")["spec"]["predictor"]
    assert POD["terminationGracePeriodSeconds"] >= 10 + int(grace) + 10
    assert predictor["terminationGracePeriodSeconds"] >= 10 + int(grace) + 10
    for service in ("server", "gateway"):
        assert int(COMPOSE["services"][service]["stop_grace_period"].rstrip("s")) >= int(grace) + 10


def test_torchserve_stays_on_the_loopback_behind_the_gateway() -> None:
    """In the pod and in compose, where both share a network; only gateway and metrics ports are reachable."""
    address = read_settings(ROOT / "config.properties")["inference_address"]
    start = (DEPLOY / "gateway" / "run.sh").read_text(encoding="utf-8")
    assert f"${{TORCHSERVE:-{address.removeprefix('http://')}}}" in start
    assert f"${{GATEWAY_LISTEN:-{GATEWAY_PORT}}}" in start
    assert {"name": "TS_INFERENCE_ADDRESS", "value": address} in MAIN["env"]
    server, gateway = COMPOSE["services"]["server"], COMPOSE["services"]["gateway"]
    assert server["environment"] == {"TS_INFERENCE_ADDRESS": address}
    assert gateway["network_mode"] == server["network_mode"] == "service:pod"
    assert "ports" not in server
    assert "ports" not in COMPOSE["services"]["pod"]
    assert COMPOSE["services"]["edge"]["ports"] == [f"${{BERT_PORT:-8443}}:{GATEWAY_PORT}"]
    ports = [port["containerPort"] for port in SIDECAR["ports"] + MAIN["ports"]]
    assert ports == [GATEWAY_PORT, GATEWAY_METRICS_PORT, METRICS_PORT]
    assert SIDECAR["restartPolicy"] == "Always", "a sidecar stops after the server that it fronts"
    service = load(DEPLOY / "kubernetes" / "base" / "service.yaml")["spec"]
    assert [port["targetPort"] for port in service["ports"]] == [SIDECAR["ports"][0]["name"]]


def test_selectors_match_the_pods() -> None:
    labels = load(DEPLOY / "kubernetes" / "base" / "deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    specs = [load(path)["spec"] for path in OBJECTS if path.parent.name == "base"]
    selectors = [spec[key] for spec in specs for key in ("selector", "podSelector") if key in spec]
    assert len(selectors) == 4
    assert all(selector.get("matchLabels", selector) == labels for selector in selectors)


@pytest.mark.parametrize("path", [DEPLOY / "kubernetes" / "base" / "network.yaml", DEPLOY / "kserve" / "network.yaml"])
def test_nothing_goes_out_and_metrics_are_for_prometheus(path: Path) -> None:
    spec = load(path)["spec"]
    assert spec["egress"] == []
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    metrics = [rule for rule in spec["ingress"] if rule["ports"][0]["port"] in ("metrics", METRICS_PORT)]
    assert len(metrics) == 1
    assert metrics[0]["from"]


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_every_service_of_compose_is_locked(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["mem_limit"]
    assert "healthcheck" in settings or service in ("server", "pod"), "the image of the server has one"


def test_code_of_an_archive_cannot_call_out() -> None:
    """The network of server and gateway has no way out; only a service without keys and models is in both."""
    services = COMPOSE["services"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert set(services["pod"]["networks"]) == {"inside"}
    assert services["edge"]["networks"] == ["inside", "outside"]
    assert "model_store" not in str(services["edge"])
    assert "run:" not in str(services["edge"]["volumes"])
    edge = (DEPLOY / "gateway" / "edge.conf").read_text(encoding="utf-8")
    assert f"listen {GATEWAY_PORT};" in edge
    assert "proxy_protocol on;" in edge
    assert "default server:8443;" in edge
    assert services["gateway"]["environment"]["GATEWAY_LISTEN"] == f"{GATEWAY_PORT} proxy_protocol"


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_logs_of_compose_are_bounded(service: str) -> None:
    """Docker's default driver never deletes a line."""
    logging = COMPOSE["services"][service]["logging"]
    assert logging["driver"] == "local"
    assert set(logging["options"]) == {"max-size", "max-file"}


def test_the_pods_metrics_are_for_prometheus_alone() -> None:
    """Not for its whole namespace."""
    for path in (DEPLOY / "kubernetes" / "base" / "network.yaml", DEPLOY / "kserve" / "network.yaml"):
        for rule in load(path)["spec"]["ingress"]:
            if "from" in rule:
                assert all({"namespaceSelector", "podSelector"} <= set(source) for source in rule["from"]), path


def test_every_image_comes_by_digest() -> None:
    """A registry's digest that the operator must give, or the image that was built here; no tag, no default."""
    example = (DEPLOY / "images.env.example").read_text(encoding="utf-8")
    for service, settings in COMPOSE["services"].items():
        if service == "server":
            continue
        (variable,) = re.findall(r"^\$\{\w+_IMAGE:-[\w/]+\}@\$\{(\w+_DIGEST):\?[^}]+\}$", settings["image"])
        assert f"\n{variable}=\n" in example
    changed = {image["name"]: image for image in load(DEPLOY / "kubernetes" / "base" / "kustomization.yaml")["images"]}
    assert set(changed) == {container["image"] for container in (SIDECAR, MAIN)}
    for image in changed.values():
        assert set(image) == {"name", "digest"}
        assert not re.fullmatch(r"sha256:[0-9a-f]{64}", image["digest"]), "an invented digest"


def test_the_second_server_has_the_settings_of_the_first() -> None:
    """Except ports and run folder, which all differ; gateway and Prometheus list both servers."""
    first = COMPOSE["services"]["server"]
    second, gateway = (REPLICAS["services"][service] for service in ("server-2", "gateway"))
    assert {**second, "environment": 0, "volumes": 0} == {**first, "environment": 0, "volumes": 0}
    assert second["volumes"] == [volume.replace("run:", "run-2:") for volume in first["volumes"]]
    settings = read_settings(ROOT / "config.properties")
    moved = {name.removeprefix("TS_").lower(): value for name, value in second["environment"].items()}
    assert set(moved) == set(PORTS)
    assert not {moved[name][-4:] for name in PORTS} & {settings[name][-4:] for name in PORTS}
    addresses, keys = (gateway["environment"][name].split() for name in ("TORCHSERVE", "KEY_FILE"))
    assert [f"http://{address}" for address in addresses] == [settings["inference_address"], moved["inference_address"]]
    assert keys == ["/app/run/key_file.json", "/app/run-2/key_file.json"]
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["gateway"]["volumes"] + gateway["volumes"]]
    assert all(key.rpartition("/")[0] in mounted for key in keys)
    (target,) = load(DEPLOY / "prometheus" / "replicas" / "second.yml")
    assert target["targets"] == [f"server:{moved['metrics_address'][-4:]}"]


def test_every_path_of_compose_is_there() -> None:
    for settings in COMPOSE["services"].values():
        for volume in settings.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), volume
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"]
    assert os.access(DEPLOY / "gateway" / "run.sh", os.X_OK)
    assert "server" in COMPOSE["services"]["pod"]["networks"]["inside"]["aliases"], "prometheus.yml scrapes server:8082"


def test_no_secret_is_in_the_repository() -> None:
    """Only examples: keys, certificates and passwords come from the operator."""
    for path in DEPLOY.rglob("*"):
        assert path.suffix not in (".key", ".crt", ".pem"), path
        if path.is_file():
            assert "PRIVATE KEY" not in path.read_text(encoding="utf-8")
    example = (DEPLOY / "gateway" / "clients.map.example").read_text(encoding="utf-8")
    assert all(line.startswith("#") for line in example.splitlines())


def test_no_file_publishes_plain_http() -> None:
    """Ray's proxies have no TLS; of compose only the gateway's port, by TLS, is for others than this machine."""
    ray = load(DEPLOY / "ray" / "serve.yaml")
    assert ray["http_options"]["host"] == "127.0.0.1"
    for path in DEPLOY.glob("compose*.yaml"):
        for service, settings in load(path)["services"].items():
            for port in settings.get("ports", []):
                assert port.startswith("127.0.0.1:") or (service, port.rpartition(":")[2]) == ("edge", "8443"), port
