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

{{/* Volumes are made writable for the group of whoever mounts them. */}}
{{- define "penstock.volumeSecurityContext" -}}
{{- if and (include "penstock.embedded" .) .Values.runAsGroup -}}
fsGroup: {{ int64 .Values.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end -}}
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
# Deployments start executions, let go and cancel those that wait; finished ones go after their time to live.
- apiGroups: [penstock.dev]
  resources: [executions]
  verbs: [get, list, watch, create, patch, delete]
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
# Tokens of endpoints, and signed requests for the files of attempts: written, and replaced by new ones. Neither get nor
# list; the answer to an update is what was sent. That to a patch would be the whole Secret.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, update]
{{- with .Values.endpoints.tokenSecrets }}
# Tokens that were brought along.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: {{ toJson . }}
  verbs: [get]
{{- end }}
# Revisions of pipelines.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, delete]
# Events for people.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* All that the gateway does in its own name: endpoints. For all else it asks with the token of whoever makes a request. */}}
{{- define "penstock.gatewayRules" -}}
- apiGroups: [penstock.dev]
  resources: [pipelines, deployments]
  verbs: [get, list, watch]
# Calls start executions, and wait for them.
- apiGroups: [penstock.dev]
  resources: [executions]
  verbs: [get, list, watch, create]
# Inputs that deployments take from ConfigMaps.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
# Deployments that name a revision.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get]
{{- end -}}

{{/* What the gateway's pods are found by. */}}
{{- define "penstock.gatewaySelectorLabels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "penstock.gatewayLabels" -}}
{{ include "penstock.gatewaySelectorLabels" . }}
{{ include "penstock.commonLabels" . }}
{{- end -}}

{{/* Whether the store is a volume of our own. */}}
{{- define "penstock.embedded" -}}
{{- if and .Values.store.embedded.enabled (not .Values.store.url) }}yes{{ end -}}
{{- end -}}

{{/* The URL of the object store; empty where there is none. */}}
{{- define "penstock.storeUrl" -}}
{{- if .Values.store.url }}{{ .Values.store.url }}{{ else if include "penstock.embedded" . }}file:///var/lib/penstock{{ end -}}
{{- end -}}

{{/* Whether there is a gateway: endpoints, the API for files, and what serves a volume. */}}
{{- define "penstock.hasGateway" -}}
{{- if or .Values.gateway.enabled (include "penstock.embedded" .) }}yes{{ end -}}
{{- end -}}

{{/* Whether a volume can be on one node only, and whoever uses it too. */}}
{{- define "penstock.oneNode" -}}
{{- if and (include "penstock.embedded" .) (eq .Values.store.embedded.accessMode "ReadWriteOnce") }}yes{{ end -}}
{{- end -}}

{{- define "penstock.claim" -}}
{{- .Values.store.embedded.existingClaim | default (printf "%s-store" (include "penstock.fullname" .)) -}}
{{- end -}}

{{- define "penstock.signingSecret" -}}
{{- .Values.store.embedded.signingKeysSecret | default (printf "%s-signing" (include "penstock.fullname" .)) -}}
{{- end -}}

{{/* Where the gateway is for those in the cluster; empty where there is none. */}}
{{- define "penstock.gatewayUrl" -}}
{{- if include "penstock.hasGateway" . }}http://{{ include "penstock.fullname" . }}-gateway.{{ .Release.Namespace }}.svc:{{ include "penstock.httpPort" . }}{{ end -}}
{{- end -}}

{{/* Environment of whoever uses the object store. */}}
{{- define "penstock.storeEnv" -}}
{{- range $key, $value := pick .Values.store "region" "endpoint" "pathStyle" "account" }}
{{- if and $value $.Values.store.url }}
- name: PENSTOCK_STORE_{{ $key | snakecase | upper }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
- name: PENSTOCK_STORE_URL
  value: {{ include "penstock.storeUrl" . | quote }}
- name: PENSTOCK_MAX_FILE_BYTES
  value: {{ .Values.store.maxFileBytes | int64 | quote }}
{{- if include "penstock.embedded" . }}
- name: PENSTOCK_GATEWAY_URL
  value: {{ include "penstock.gatewayUrl" . }}
- name: PENSTOCK_SIGNING_KEYS
  valueFrom:
    secretKeyRef:
      name: {{ include "penstock.signingSecret" . }}
      key: keys
{{- end }}
{{- end -}}

{{/* Environment of whoever writes or reads the history. */}}
{{- define "penstock.historyEnv" -}}
{{- with .Values.history }}
{{- if .existingSecret }}
- name: PENSTOCK_HISTORY_URL
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: url
{{- else if .url }}
- name: PENSTOCK_HISTORY_URL
  value: {{ .url | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where everybody of ours may go: names and the API server; with an object store elsewhere there too. */}}
{{- define "penstock.egress" -}}
# DNS, wherever it is: a cache on the node has no labels to select by. 5353 is OpenShift's.
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
    - {protocol: UDP, port: 5353}
    - {protocol: TCP, port: 5353}
# The API server.
- ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.apiServer.cidrs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- with .Values.store }}
{{- if .url }}
# The object store, wherever it is.
- ports:
    - {protocol: TCP, port: {{ regexFind ":[0-9]+(/|$)" (trimPrefix "https:" (trimPrefix "http:" .endpoint)) | trimAll ":/" | default (ternary 80 443 (hasPrefix "http:" .endpoint)) }}}
{{- end }}
{{- end }}
{{- with .Values.history }}
{{- if or .url .existingSecret }}
# The history's database, wherever it is.
- ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
