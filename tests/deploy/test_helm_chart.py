"""Compare the Helm chart with deploy/kubernetes by manifests that Helm rendered (tests/support/helm_chart.py)."""

from __future__ import annotations

import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate
import pytest
import yaml

from tests.support.helm_chart import CHART, IMAGES, RELEASES, RENDERED, chart_hash
from tests.support.manifests import load, merged
from tests.support.samples import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
GATEWAY = ROOT / "deploy" / "gateway"
TEXTS = {name: (RENDERED / f"{name}.yaml").read_text(encoding="utf-8") for name in RELEASES}
OBJECTS = {name: [each for each in yaml.safe_load_all(text) if each] for name, text in TEXTS.items()}


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the only object of a kind."""
    (manifest,) = [manifest for manifest in objects if manifest["kind"] == kind]
    return manifest


def kustomized(overlay: str | None) -> list[dict[str, Any]]:
    """Return the objects that kustomize makes of the base and an overlay, before it names images and adds labels."""
    objects = [load(path) for path in sorted((KUBERNETES / "base").glob("*.yaml")) if path.stem != "kustomization"]
    for folder in ("queue", "gpu") if overlay == "gpu" else (overlay,) if overlay else ():
        kustomization = load(KUBERNETES / folder / "kustomization.yaml")
        for patch in (yaml.safe_load(each["patch"]) for each in kustomization["patches"]):
            others = [each for each in objects if each["kind"] != patch["kind"]]
            patched = [] if "$patch" in patch else [merged(of_kind(objects, patch["kind"]), patch)]
            objects = others + patched
        objects += [load(KUBERNETES / folder / file) for file in kustomization["resources"] if file.endswith(".yaml")]
    return objects


def comparable(value: Any) -> Any:
    """Leave out what differs on purpose: the labels of a release, images by digest, and when they are pulled."""
    if isinstance(value, list):
        return [comparable(each) for each in value]
    if not isinstance(value, dict):
        return value
    value = {
        key: comparable(each) for key, each in value.items() if key not in ("labels", "namespace", "imagePullPolicy")
    }
    value.pop("app.kubernetes.io/instance", None)
    if isinstance(value.get("image"), str):
        value["image"] = value["image"].partition("@")[0]
    return value


@pytest.mark.parametrize("name", RELEASES)
def test_the_manifests_were_rendered_from_this_chart(name: str) -> None:
    (written,) = re.findall(r"^# SHA-256 of the chart: (\w+)$", TEXTS[name], re.MULTILINE)
    assert written == chart_hash(), "the chart changed: run python -m tests.support.helm_chart (requirements/helm.txt)"


@pytest.mark.parametrize(("name", "overlay"), [("torchserve", None), ("standalone", "lean"), ("gpu", "gpu")])
def test_a_release_is_what_kustomize_makes(name: str, overlay: str | None) -> None:
    """Field by field: pods, service, autoscaler, disruption budget, network policy."""
    expected = {each["kind"]: comparable(each) for each in kustomized(overlay)}
    rendered = {each["kind"]: comparable(each) for each in OBJECTS[name]}
    del rendered["ConfigMap"]
    service = rendered["Service"]["spec"]
    assert service.pop("type") == "ClusterIP"  # which is the default
    for spec in (each["spec"] for each in rendered.values()):
        if "scaleTargetRef" in spec:
            assert spec["scaleTargetRef"]["name"] == rendered["Deployment"]["metadata"]["name"]
    assert rendered == expected


def test_the_chart_has_the_gateways_files() -> None:
    """Those of kustomize's map, each a link, so that there is one file of each."""
    links = list((CHART / "gateway").iterdir())
    assert all(path.is_symlink() and path.resolve() == GATEWAY / path.name for path in links)
    (generator,) = load(GATEWAY / "kustomization.yaml")["configMapGenerator"]
    assert sorted(path.name for path in links) == sorted(generator["files"])
    assert all(load_mount(name) == generator["name"] for name in RELEASES)


def load_mount(name: str) -> str:
    """Return the name of the map that a release's pods mount, which is one of its objects."""
    pod = of_kind(OBJECTS[name], "Deployment")["spec"]["template"]["spec"]
    (mounted,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert mounted == of_kind(OBJECTS[name], "ConfigMap")["metadata"]["name"]
    return str(mounted)


@pytest.mark.parametrize("version", ["1.29.0", "1.37.0"])
@pytest.mark.parametrize("name", RELEASES)
def test_every_object_is_valid(name: str, version: str) -> None:
    """By the strict schemas of the oldest and the newest supported version; a ScaledObject is KEDA's own."""
    for each in OBJECTS[name]:
        if each["kind"] != "ScaledObject":
            kubernetes_validate.validate(each, version, strict=True)
    assert load(CHART / "Chart.yaml")["kubeVersion"] == ">=1.29.0-0"


@pytest.mark.parametrize("name", RELEASES)
def test_selectors_match_the_pods_of_a_release(name: str) -> None:
    """Two releases in one namespace take none of each other's pods."""
    pods = of_kind(OBJECTS[name], "Deployment")["spec"]["template"]["metadata"]["labels"]
    specs = [each["spec"] for each in OBJECTS[name] if "spec" in each]
    selectors = [spec[key] for spec in specs for key in ("selector", "podSelector") if key in spec]
    assert len(selectors) == 4
    assert all(selector.get("matchLabels", selector) == pods for selector in selectors)
    assert pods["app.kubernetes.io/instance"] == "bert"


def test_every_value_has_an_effect() -> None:
    """The release with all values differs from the others where they say."""
    objects = OBJECTS["every-value"]
    assert {each["kind"] for each in objects} == {
        *("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"),
    }
    text = TEXTS["every-value"]
    deployment = of_kind(objects, "Deployment")["spec"]
    assert deployment["replicas"] == 3
    server = deployment["template"]["spec"]["containers"][0]
    assert server["image"] == f"registry:5000/bert:2@sha256:{'3' * 64}"
    assert server["resources"] == {"requests": {"cpu": "4", "memory": "6Gi"}, "limits": {"memory": "8Gi"}}
    assert "models" not in {mount["name"] for mount in server["volumeMounts"]}
    for word in ("secretName: other", "http://collector:4318", "example.org/team", "LoadBalancer", "sizeLimit: 16Gi"):
        assert word in text
    unset = set(load(CHART / "values.yaml")) - set(RELEASES["every-value"]) - set(RELEASES["gpu"])
    assert not unset, "a value that no release sets"


@pytest.mark.parametrize(
    "values",
    [
        {"image": {"digest": "latest"}},
        {"image": {"repository": "bert", "diggest": ""}},
        {"server": "triton"},
        {"replica": 2},
        {"autoscaling": {"by": "memory"}},
        {"autoscaling": {"queue": {"threshold": 20}}},
        {"networkPolicy": {"prometheus": {"namespaceSelector": None}}},
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any]) -> None:
    """By the schema, which Helm applies before it renders; the values of the chart pass it."""
    schema = load(CHART / "values.schema.json")
    values_of_the_chart = merged(load(CHART / "values.yaml"), IMAGES)
    jsonschema.validate(values_of_the_chart, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(values_of_the_chart, values), schema)
