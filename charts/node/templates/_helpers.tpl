{{- define "node.selector" -}}
app.kubernetes.io/name: node
app.kubernetes.io/part-of: ambit
{{- end }}

{{- define "node.labels" -}}
{{ include "node.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "node.image" -}}
{{ .Values.global.hub }}/node:{{ .Values.global.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Name of what belongs to no namespace. */}}
{{- define "node.clusterName" -}}
ambit-node
{{- end }}

{{/* Variables of the environment by name; those that the user sets go before ours. */}}
{{- define "node.env" -}}
{{- range $name, $value := merge (deepCopy .Values.env) .ours }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
