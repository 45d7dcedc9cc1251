#!/usr/bin/env bash
# Surprise: a Deployment with "resorces", or with "limit" in the place of "limits", is valid for kubernetes-validate:
#   fields that the schema does not know pass unless strict is set, and the model has no memory limit. A limit of "4
#   GB", which is no quantity of Kubernetes, passes even then.
# Versions: kubernetes-validate 1.37.0 (schema of Kubernetes 1.30), PyYAML 6.0.4.
# Users: pass strict=True (--strict), and check quantities, names and selectors against a cluster (kubectl apply
#   --dry-run=server).
# Source: the schemas of Kubernetes allow other fields; strict adds additionalProperties: false. A quantity is a string
#   without a pattern there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'kubernetes-validate==1.37.0' 'pyyaml==6.0.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import kubernetes_validate
import yaml

print(*(f"{name} {version(name)}" for name in ("kubernetes-validate", "PyYAML")))
print("guess: a field that does not exist and a limit that cannot be read are errors")
manifest = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: model}
spec:
  selector: {matchLabels: {app: model}}
  template:
    metadata: {labels: {app: model}}
    spec:
      containers:
        - name: model
          image: registry.example/model:1
          %s
"""


def valid(resources: str, **options) -> bool:
    try:
        kubernetes_validate.validate(yaml.safe_load(manifest % resources), "1.30", **options)
    except kubernetes_validate.ValidationError:
        return False
    return True


lines = ["resources: {limits: {memory: 4Gi}}", "resorces: {limits: {memory: 4Gi}}", "resources: {limit: {memory: 4Gi}}", "resources: {limits: {memory: 4 GB}}"]
seen = {line: (valid(line), valid(line, strict=True)) for line in lines}
print("seen: valid by default, and with strict=True", seen)
assert list(seen.values()) == [(True, True), (True, False), (True, False), (True, True)]
PYTHON
