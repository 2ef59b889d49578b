{{/* The name of all objects. Short enough for what is put after it. */}}
{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the operator's pods are found by; never changes, because selectors cannot. */}}
{{- define "penstock.selectorLabels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of all objects but for the component. */}}
{{- define "penstock.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: penstock
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "penstock.labels" -}}
{{ include "penstock.selectorLabels" . }}
{{ include "penstock.commonLabels" . }}
{{- end -}}

{{/* Labels of what belongs to `helm test`: no selector of the operator may find it. */}}
{{- define "penstock.testSelectorLabels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "penstock.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "penstock.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: needed where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "penstock.image" -}}
{{- $repository := required "image.repository: say where the image is, such as --set image.repository=registry.example/penstock" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The port of /healthz, /readyz and /metrics. */}}
{{- define "penstock.httpPort" -}}
8080
{{- end -}}

{{/* Security of a pod and of a container, as the Pod Security level `restricted` wants it, and a little more. */}}
{{- define "penstock.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "penstock.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Everything that the operator does in the namespaces that it looks after, as RBAC rules. */}}
{{- define "penstock.rules" -}}
# What people apply: read, never written.
- apiGroups: [penstock.dev]
  resources: [pipelines, deployments]
  verbs: [get, list, watch]
# Deployments start executions; finished ones go after their time to live.
- apiGroups: [penstock.dev]
  resources: [executions]
  verbs: [get, list, watch, create, delete]
- apiGroups: [penstock.dev]
  resources: [pipelines/status, deployments/status, executions/status]
  verbs: [patch, update]
# One Job and one Pod for each attempt of a step; the Job's status is written by us where we manage it.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [batch]
  resources: [jobs/status]
  verbs: [patch, update]
# A Job is not gone before its pod is. Where the API server enforces permissions of owner references (OpenShift does),
# whoever says so in the pod needs this.
- apiGroups: [batch]
  resources: [jobs/finalizers]
  verbs: [update]
# Pods are ended by their deadline, which keeps their logs.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
# Values that do not fit a termination message are read from the collector's log.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Inputs that do not fit annotations.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, delete]
# Revisions of pipelines.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, delete]
# Events for people.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
