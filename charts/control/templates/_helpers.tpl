{{- define "control.selector" -}}
app.kubernetes.io/name: control
app.kubernetes.io/part-of: ambit
{{- end }}

{{- define "control.labels" -}}
{{ include "control.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "control.image" -}}
{{ .Values.global.hub }}/control:{{ .Values.global.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Name of what belongs to no namespace. */}}
{{- define "control.clusterName" -}}
ambit-control
{{- end }}

{{/* Variables of the environment by name; those that the user sets go before ours. */}}
{{- define "control.env" -}}
{{- range $name, $value := merge (deepCopy .Values.env) .ours }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
