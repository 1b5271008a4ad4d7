{{- define "ztunnel.selector" -}}
app.kubernetes.io/name: ztunnel
app.kubernetes.io/part-of: ambit
{{- end }}

{{- define "ztunnel.labels" -}}
{{ include "ztunnel.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ztunnel.image" -}}
{{ .Values.global.hub }}/ztunnel:{{ .Values.global.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Name of what belongs to no namespace. */}}
{{- define "ztunnel.clusterName" -}}
ambit-ztunnel
{{- end }}

{{/* Variables of the environment by name; those that the user sets go before ours. */}}
{{- define "ztunnel.env" -}}
{{- range $name, $value := merge (deepCopy .Values.env) .ours }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
