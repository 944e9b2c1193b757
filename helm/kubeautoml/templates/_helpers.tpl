{{/* The namespace's own names, which the code (api/rights.py, runbooks, alerts) knows: they do not depend on the release. */}}

{{- define "kubeautoml.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kubeautoml
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* metadata of an object in the release's namespace: (dict "root" $ "name" object "app" name-label "annotations" dict) */}}
{{- define "kubeautoml.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .namespace | default .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "kubeautoml.labels" (dict "root" .root "name" .app) | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* metadata of a pod template: (dict "root" $ "app" name-label "values" values-of-the-part) */}}
{{- define "kubeautoml.podMetadata" -}}
labels:
  {{- include "kubeautoml.labels" (dict "root" .root "name" .app) | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.values.podAnnotations | default dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* registry/repository:tag or @digest: (dict "root" $ "image" image-values) */}}
{{- define "kubeautoml.image" -}}
{{- $images := .root.Values.images -}}
{{- $name := printf "%s/%s" (.image.registry | default $images.registry) .image.repository -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ .image.tag | default $images.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "kubeautoml.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where a pod may run: (dict "values" values-of-the-part "app" name-label, "spread" true for one a node) */}}
{{- define "kubeautoml.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else if .spread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        app.kubernetes.io/name: {{ .app }}
{{- end }}
{{- end }}

{{/* The *restricted* Pod Security level. The images run as 65532; OpenShift gives numbers of its own. */}}
{{- define "kubeautoml.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "kubeautoml.studyUrl" -}}
grpcs://kubeautoml-study.{{ .Release.Namespace }}.svc:13000
{{- end }}

{{- define "kubeautoml.studyTlsSecret" -}}
{{ .Values.studyServer.tls.existingSecret | default "kubeautoml-study-tls" }}
{{- end }}

{{- define "kubeautoml.studyReplicas" -}}
{{- if eq .Values.database.type "SQLite" -}}
1
{{- else -}}
{{ ternary 2 .Values.studyServer.replicas (kindIs "invalid" .Values.studyServer.replicas) }}
{{- end -}}
{{- end }}

{{- define "kubeautoml.databaseSecret" -}}
{{- if eq .Values.database.type "External" -}}
{{ .Values.database.external.existingSecret }}
{{- else -}}
{{ .Values.database.bundled.existingSecret | default "kubeautoml-database" }}
{{- end -}}
{{- end }}

{{- define "kubeautoml.databaseKey" -}}
{{ ternary .Values.database.external.key "url" (eq .Values.database.type "External") }}
{{- end }}

{{/* "true" where it is switched on, or left open and the cluster knows the kind: (dict "root" $ "switch" value) */}}
{{- define "kubeautoml.hasMonitoring" -}}
{{- if kindIs "invalid" .switch -}}
{{ .root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" | ternary "true" "" }}
{{- else -}}
{{ .switch | ternary "true" "" }}
{{- end -}}
{{- end }}

{{/* Who may read metrics, as a rule of a NetworkPolicy has it */}}
{{- define "kubeautoml.metricsFrom" -}}
{{- with .Values.networkPolicy.metricsFrom }}
from:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
