{{- define "dovetail.labels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "dovetail.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What every container has: the image, the project, the secrets, the offline store. */}}
{{- define "dovetail.container" -}}
image: {{ include "dovetail.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.secret }}
envFrom:
  - secretRef: { name: {{ . }} }
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "dovetail.mounts" -}}
- { name: project, mountPath: /project/dovetail.toml, subPath: dovetail.toml }
{{- if .Values.project.sqlConfigMap }}
- { name: sql, mountPath: /project/sql }
{{- end }}
{{- if .Values.stores.offlineClaim }}
- { name: offline, mountPath: /offline }
{{- end }}
{{- end }}

{{- define "dovetail.volumes" -}}
- name: project
  configMap: { name: {{ .Release.Name }}-project }
{{- with .Values.project.sqlConfigMap }}
- name: sql
  configMap: { name: {{ . }} }
{{- end }}
{{- with .Values.stores.offlineClaim }}
- name: offline
  persistentVolumeClaim: { claimName: {{ . }} }
{{- end }}
{{- end }}

{{- define "dovetail.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
automountServiceAccountToken: false
{{- end }}
