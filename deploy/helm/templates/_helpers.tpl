{{/* The labels by which objects select the pods: they never change. */}}
{{- define "bert.selector" -}}
app.kubernetes.io/name: bert
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The labels of every object. */}}
{{- define "bert.labels" -}}
{{ include "bert.selector" . }}
app.kubernetes.io/part-of: bert-on-torchserve
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Name and labels of an object. */}}
{{- define "bert.metadata" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels: {{- include "bert.labels" . | nindent 2 }}
{{- end }}

{{/* An image by its digest. Arguments: the path of the value in values.yaml, the value. */}}
{{- define "bert.image" -}}
{{- $path := index . 0 }}{{ $image := index . 1 -}}
{{- $digest := required (printf "set %s.digest to the digest of the image, sha256:...; no tag alone, which can be another image tomorrow" $path) $image.digest -}}
{{ $image.repository }}{{ with $image.tag }}:{{ . }}{{ end }}@{{ $digest }}
{{- end }}

{{/* Double at once, and look again when the new ones answer; down one at a time, after ten minutes of low load. */}}
{{- define "bert.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 30
  policies: [{type: Percent, value: 100, periodSeconds: 120}]
scaleDown:
  stabilizationWindowSeconds: 600
  policies: [{type: Pods, value: 1, periodSeconds: 120}]
{{- end }}

{{/* The reasons for these limits are in deploy/kubernetes/base/deployment.yaml. */}}
{{- define "bert.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
