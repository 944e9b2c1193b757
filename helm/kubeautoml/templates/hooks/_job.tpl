{{/* A Job of the operator's image that runs once before an install or upgrade:
     (dict "root" $ "name" object "args" list "hook" events "weight" text) */}}
{{- define "kubeautoml.hookAnnotations" -}}
helm.sh/hook: {{ .hook }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: {{ .policy | default "before-hook-creation,hook-succeeded" }}
{{- end }}

{{- define "kubeautoml.hookJob" -}}
{{- $root := .root -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "kubeautoml.metadata" (dict "root" $root "name" .name "app" .name "annotations" (include "kubeautoml.hookAnnotations" . | fromYaml)) | nindent 2 }}
spec:
  backoffLimit: 3
  activeDeadlineSeconds: 300
  ttlSecondsAfterFinished: 600
  template:
    metadata:
      {{- include "kubeautoml.podMetadata" (dict "root" $root "app" .name "values" (dict)) | nindent 6 }}
    spec:
      serviceAccountName: {{ .name }}
      enableServiceLinks: false
      restartPolicy: Never
      {{- include "kubeautoml.pullSecrets" $root | nindent 6 }}
      {{- include "kubeautoml.placement" (dict "values" (omit $root.Values.operator "topologySpreadConstraints")) | nindent 6 }}
      securityContext:
        runAsNonRoot: true
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: setup
          image: {{ include "kubeautoml.image" (dict "root" $root "image" $root.Values.images.operator) }}
          imagePullPolicy: {{ $root.Values.images.pullPolicy }}
          command: [kubeautoml]
          args:
            {{- toYaml .args | nindent 12 }}
          {{- with $root.Values.operator.extraEnv }}
          env:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          resources:
            requests: {cpu: 100m, memory: 128Mi}
            limits: {memory: 256Mi}
          securityContext:
            {{- include "kubeautoml.containerSecurity" $root | nindent 12 }}
          terminationMessagePolicy: FallbackToLogsOnError
          volumeMounts:
            - name: tmp
              mountPath: /tmp
      volumes:
        - name: tmp
          emptyDir: {}
{{- end }}

{{/* Account, role and binding of such a Job, made with it and gone after it:
     (dict "root" $ "name" object "kind" Role-or-ClusterRole "rules" list "hook" events "weight" text) */}}
{{- define "kubeautoml.hookAccount" -}}
{{- $annotations := include "kubeautoml.hookAnnotations" . | fromYaml -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "kubeautoml.metadata" (dict "root" .root "name" .name "app" .name "annotations" $annotations) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  {{- include "kubeautoml.metadata" (dict "root" .root "name" .name "app" .name "cluster" (eq .kind "ClusterRole") "annotations" $annotations) | nindent 2 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  {{- include "kubeautoml.metadata" (dict "root" .root "name" .name "app" .name "cluster" (eq .kind "ClusterRole") "annotations" $annotations) | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}
