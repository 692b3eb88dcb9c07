package kinds_test

func statefulSetGolden() golden {
	return golden{
		resource: "statefulsets.apps",
		base: `
metadata: {name: db, namespace: default}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: db, image: 'db:1', volumeMounts: [{name: data, mountPath: /data}]}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`,
		defaults: []row{
			{"", "spec.replicas = 1 & spec.revisionHistoryLimit = 10 & spec.podManagementPolicy = OrderedReady"},
			{"", "spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {partition: 0, maxUnavailable: 1}}"},
			{"", "spec.persistentVolumeClaimRetentionPolicy = {whenDeleted: Retain, whenScaled: Retain}"},
			{"", "spec.volumeClaimTemplates[0].apiVersion = v1 & spec.volumeClaimTemplates[0].kind = PersistentVolumeClaim & spec.volumeClaimTemplates[0].spec.volumeMode = Filesystem & spec.volumeClaimTemplates[0].status = {phase: Pending}"},
			{"", "spec.template.spec.restartPolicy = Always & spec.template.spec.volumes = ~ & spec.template.spec.terminationGracePeriodSeconds = 30"},
			{"spec.updateStrategy = {type: OnDelete}", "spec.updateStrategy = {type: OnDelete}"},
			{"spec.updateStrategy = {type: RollingUpdate}", "spec.updateStrategy = {type: RollingUpdate}"},
			{"spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {partition: 2}}", "spec.updateStrategy.rollingUpdate = {partition: 2, maxUnavailable: 1}"},
			{"spec.updateStrategy = {rollingUpdate: {maxUnavailable: 50%}}", "spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {partition: 0, maxUnavailable: 50%}}"},
			{"spec.persistentVolumeClaimRetentionPolicy = {whenScaled: Delete}", "spec.persistentVolumeClaimRetentionPolicy = {whenDeleted: Retain, whenScaled: Delete}"},
			{"spec.replicas = 0", "spec.replicas = 0"},
			{"status = {replicas: 3}", "status = {replicas: 0, availableReplicas: 0}"},
		},
		valid: []string{
			"spec.serviceName = ~",
			"spec.podManagementPolicy = Parallel",
			"spec.ordinals = {start: 5}",
			"spec.minReadySeconds = 3",
			"spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {maxUnavailable: 100%}}",
			"spec.volumeClaimTemplates = [] & spec.template.spec.volumes = [{name: data, emptyDir: {}}]",
			"spec.template.spec.volumes = [{name: data, emptyDir: {}}]",
			"spec.selector = {matchExpressions: [{key: app, operator: Exists}]}",
		},
		invalid: []row{
			{"metadata.name = a.b", "metadata.name: FieldValueInvalid"},
			{"spec.serviceName = A_", "spec.serviceName: FieldValueInvalid"},
			{"spec.selector = ~", "spec.selector: FieldValueRequired"},
			{"spec.selector = {}", "spec.selector: FieldValueInvalid"},
			{"spec.selector.matchLabels = {app: other}", "spec.template.metadata.labels: FieldValueInvalid"},
			{"spec.replicas = -1", "spec.replicas: FieldValueInvalid"},
			{"spec.minReadySeconds = -1", "spec.minReadySeconds: FieldValueInvalid"},
			{"spec.revisionHistoryLimit = -1", "spec.revisionHistoryLimit: FieldValueInvalid"},
			{"spec.ordinals = {start: -1}", "spec.ordinals.start: FieldValueInvalid"},
			{"spec.podManagementPolicy = Odd", "spec.podManagementPolicy: FieldValueInvalid"},
			{"spec.updateStrategy = {type: Odd}", "spec.updateStrategy: FieldValueInvalid"},
			{"spec.updateStrategy = {type: OnDelete, rollingUpdate: {partition: 1}}", "spec.updateStrategy.rollingUpdate: FieldValueInvalid"},
			{"spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {partition: -1}}", "spec.updateStrategy.rollingUpdate.partition: FieldValueInvalid"},
			{"spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0}}", "spec.updateStrategy.rollingUpdate.maxUnavailable: FieldValueInvalid"},
			{"spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {maxUnavailable: 101%}}", "spec.updateStrategy.rollingUpdate.maxUnavailable: FieldValueInvalid"},
			{"spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {maxUnavailable: x}}", "spec.updateStrategy.rollingUpdate.maxUnavailable: FieldValueInvalid"},
			{"spec.persistentVolumeClaimRetentionPolicy = {whenDeleted: Odd}", "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: FieldValueNotSupported"},
			{"spec.persistentVolumeClaimRetentionPolicy = {whenScaled: Odd}", "spec.persistentVolumeClaimRetentionPolicy.whenScaled: FieldValueNotSupported"},
			{"spec.volumeClaimTemplates = []", "spec.template.spec.containers[0].volumeMounts[0].name: FieldValueNotFound"},
			{"spec.volumeClaimTemplates[1] = {metadata: {name: data}, spec: {}}", "spec.volumeClaimTemplates[1].metadata.name: FieldValueDuplicate"},
			{"spec.volumeClaimTemplates[1] = {metadata: {name: A_}, spec: {}}", "spec.volumeClaimTemplates[1].metadata.name: FieldValueInvalid"},
			{"spec.volumeClaimTemplates[1] = {spec: {}}", "spec.volumeClaimTemplates[1].metadata.name: FieldValueRequired"},
			{"spec.template.spec.restartPolicy = Never", "spec.template.spec.restartPolicy: FieldValueNotSupported"},
			{"spec.template.spec.activeDeadlineSeconds = 3", "spec.template.spec.activeDeadlineSeconds: FieldValueForbidden"},
			{"spec.template.spec.containers[0].image = ''", "spec.template.spec.containers[0].image: FieldValueRequired"},
		},
		update: []row{
			{"spec.replicas = 5 & spec.template.spec.containers[0].image = db:2", ""},
			{"spec.ordinals = {start: 2} & spec.minReadySeconds = 4 & spec.revisionHistoryLimit = 3", ""},
			{"spec.updateStrategy = {type: OnDelete}", ""},
			{"spec.persistentVolumeClaimRetentionPolicy = {whenDeleted: Delete}", ""},
			{"spec.volumeClaimTemplates[0].spec.resources.requests.storage = 1024Mi", ""},
			{"spec.volumeClaimTemplates[0].spec.resources.requests.storage = 2Gi", "spec: FieldValueForbidden"},
			{"spec.serviceName = other", "spec: FieldValueForbidden"},
			{"spec.podManagementPolicy = Parallel", "spec: FieldValueForbidden"},
			{"spec.selector.matchLabels = {app: other} & spec.template.metadata.labels = {app: other}", "spec: FieldValueForbidden"},
			{"spec.replicas = -1", "spec.replicas: FieldValueInvalid"},
			{"status.replicas = 3", ""},
		},
		status: []row{
			{"status = {replicas: 3, readyReplicas: 2, availableReplicas: 1, currentReplicas: 1, updatedReplicas: 2, currentRevision: a, updateRevision: b, observedGeneration: 1}", ""},
			{"status = {replicas: 1, readyReplicas: 2}", "status.readyReplicas: FieldValueInvalid"},
			{"status = {replicas: 1, currentReplicas: 2}", "status.currentReplicas: FieldValueInvalid"},
			{"status = {replicas: 1, updatedReplicas: 2}", "status.updatedReplicas: FieldValueInvalid"},
			{"status = {replicas: 2, availableReplicas: 1}", "status.availableReplicas: FieldValueInvalid"},
			{"status = {replicas: -1}", "status.availableReplicas: FieldValueInvalid, status.currentReplicas: FieldValueInvalid, status.readyReplicas: FieldValueInvalid, status.replicas: FieldValueInvalid, status.updatedReplicas: FieldValueInvalid"},
			{"status = {replicas: 0, collisionCount: -1}", "status.collisionCount: FieldValueInvalid"},
		},
	}
}

func daemonSetGolden() golden {
	return golden{
		resource: "daemonsets.apps",
		base:     workloadBase,
		defaults: []row{
			{"", "spec.updateStrategy = {type: RollingUpdate, rollingUpdate: {maxUnavailable: 1, maxSurge: 0}} & spec.revisionHistoryLimit = 10"},
			{"", "metadata.annotations = {deprecated.daemonset.template.generation: '1'}"},
			{"metadata.annotations = {deprecated.daemonset.template.generation: '7', a: b}", "metadata.annotations = {deprecated.daemonset.template.generation: '7', a: b}"},
			{"spec.updateStrategy = {type: OnDelete}", "spec.updateStrategy = {type: OnDelete}"},
			{"spec.updateStrategy = {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}", "spec.updateStrategy.rollingUpdate = {maxSurge: 1, maxUnavailable: 0}"},
			{"", "spec.template.spec.restartPolicy = Always & spec.template.spec.schedulerName = default-scheduler"},
			{"status = {desiredNumberScheduled: 3, currentNumberScheduled: 3, numberReady: 3, numberMisscheduled: 0}", "status.desiredNumberScheduled = 0"},
		},
		valid: []string{
			"spec.updateStrategy = {rollingUpdate: {maxUnavailable: 30%}}",
			"spec.minReadySeconds = 5",
			"spec.template.spec.nodeSelector = {a: b} & spec.template.spec.hostNetwork = true",
		},
		invalid: []row{
			{"spec.selector = ~", "spec.selector: FieldValueRequired"},
			{"spec.selector = {}", "spec.selector: FieldValueInvalid"},
			{"spec.selector.matchLabels = {app: other}", "spec.template.metadata.labels: FieldValueInvalid"},
			{"spec.updateStrategy = {type: Odd}", "spec.updateStrategy: FieldValueNotSupported"},
			{"spec.updateStrategy = {rollingUpdate: {maxUnavailable: 0}}", "spec.updateStrategy.rollingUpdate.maxUnavailable: FieldValueRequired"},
			{"spec.updateStrategy = {rollingUpdate: {maxUnavailable: 1, maxSurge: 1}}", "spec.updateStrategy.rollingUpdate.maxSurge: FieldValueInvalid"},
			{"spec.updateStrategy = {rollingUpdate: {maxUnavailable: 101%}}", "spec.updateStrategy.rollingUpdate.maxUnavailable: FieldValueInvalid"},
			{"spec.updateStrategy = {rollingUpdate: {maxUnavailable: 0, maxSurge: 200%}}", "spec.updateStrategy.rollingUpdate.maxSurge: FieldValueInvalid"},
			{"spec.updateStrategy = {rollingUpdate: {maxUnavailable: -1}}", "spec.updateStrategy.rollingUpdate.maxUnavailable: FieldValueInvalid"},
			{"spec.minReadySeconds = -1", "spec.minReadySeconds: FieldValueInvalid"},
			{"spec.revisionHistoryLimit = -1", "spec.revisionHistoryLimit: FieldValueInvalid"},
			{"spec.template.spec.restartPolicy = OnFailure", "spec.template.spec.restartPolicy: FieldValueNotSupported"},
			{"spec.template.spec.activeDeadlineSeconds = 3", "spec.template.spec.activeDeadlineSeconds: FieldValueForbidden"},
			{"spec.template.spec.containers = []", "spec.template.spec.containers: FieldValueRequired"},
		},
		update: []row{
			{"spec.template.spec.containers[0].image = web:2", ""},
			{"spec.updateStrategy = {type: OnDelete}", ""},
			{"metadata.annotations = ~", ""},
			{"spec.selector.matchLabels = {app: other} & spec.template.metadata.labels = {app: other}", "spec.selector: FieldValueInvalid"},
		},
		status: []row{
			{"status = {desiredNumberScheduled: 3, currentNumberScheduled: 2, numberReady: 1, numberMisscheduled: 1, collisionCount: 1}", ""},
			{"status.numberReady = -1", "status.numberReady: FieldValueInvalid"},
			{"status.desiredNumberScheduled = -1", "status.desiredNumberScheduled: FieldValueInvalid"},
			{"status.numberMisscheduled = -1", "status.numberMisscheduled: FieldValueInvalid"},
			{"status.observedGeneration = -1", "status.observedGeneration: FieldValueInvalid"},
			{"status.collisionCount = -2", "status.collisionCount: FieldValueInvalid"},
		},
	}
}

func controllerRevisionGolden() golden {
	return golden{
		resource: "controllerrevisions.apps",
		base:     "metadata: {name: db-1, namespace: default}\nrevision: 1\ndata: {spec: {a: b}}",
		valid:    []string{"revision = 0", "data = {}"},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"data = ~", "data: FieldValueRequired"},
			{"data = [1]", "data: FieldValueInvalid"},
			{"data = text", "data: FieldValueInvalid"},
			{"revision = -1", "revision: FieldValueInvalid"},
		},
		update: []row{
			{"revision = 2", ""},
			{"metadata.labels = {a: b}", ""},
			{"data = {spec: {a: c}}", "data: FieldValueInvalid"},
		},
	}
}

func replicationControllerGolden() golden {
	return golden{
		resource: "replicationcontrollers",
		base: `
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  template:
    metadata: {labels: {app: web, tier: front}}
    spec:
      containers: [{name: web, image: 'web:1'}]
`,
		defaults: []row{
			{"", "spec.replicas = 1 & metadata.labels = {app: web, tier: front} & spec.template.spec.dnsPolicy = ClusterFirst"},
			{"spec.selector = ~", "spec.selector = {app: web, tier: front}"},
			{"metadata.labels = {a: b}", "metadata.labels = {a: b}"},
			{"spec.replicas = 0", "spec.replicas = 0"},
			{"status.replicas = 3", "status.replicas = 0"},
		},
		valid: []string{"spec.minReadySeconds = 3"},
		invalid: []row{
			{"spec.template = ~", "spec.template: FieldValueRequired"},
			{"spec.selector = ~ & spec.template.metadata.labels = ~", "spec.selector: FieldValueRequired"},
			{"spec.selector = {app: other}", "spec.template.metadata.labels: FieldValueInvalid"},
			{"spec.replicas = -1", "spec.replicas: FieldValueInvalid"},
			{"spec.minReadySeconds = -1", "spec.minReadySeconds: FieldValueInvalid"},
			{"spec.template.spec.restartPolicy = Never", "spec.template.spec.restartPolicy: FieldValueNotSupported"},
			{"spec.template.spec.activeDeadlineSeconds = 1", "spec.template.spec.activeDeadlineSeconds: FieldValueForbidden"},
			{"spec.template.spec.containers[0].name = A_", "spec.template.spec.containers[0].name: FieldValueInvalid"},
		},
		update: []row{
			{"spec.replicas = 5", ""},
			{"spec.selector = {tier: front}", ""},
			{"spec.selector = {tier: back}", "spec.template.metadata.labels: FieldValueInvalid"},
		},
		status: []row{
			{"status = {replicas: 2, readyReplicas: 2, availableReplicas: 1, fullyLabeledReplicas: 2}", ""},
			{"status = {replicas: 2, readyReplicas: 3}", "status.readyReplicas: FieldValueInvalid"},
			{"status = {replicas: 2, fullyLabeledReplicas: 3}", "status.fullyLabeledReplicas: FieldValueInvalid"},
			{"status = {replicas: 2, availableReplicas: 1}", "status.availableReplicas: FieldValueInvalid"},
		},
	}
}

func podTemplateGolden() golden {
	return golden{
		resource: "podtemplates",
		base: `
metadata: {name: web, namespace: default}
template:
  metadata: {labels: {app: web}}
  spec:
    containers: [{name: web, image: 'web:1'}]
`,
		defaults: []row{
			{"", "template.spec.restartPolicy = Always & template.spec.containers[0].imagePullPolicy = IfNotPresent & template.spec.serviceAccountName = ~"},
		},
		valid: []string{"template.spec.restartPolicy = Never", "template.spec.activeDeadlineSeconds = 5"},
		invalid: []row{
			{"template.metadata.labels = {'a b': c}", "template.labels: FieldValueInvalid"},
			{"template.metadata.annotations = {'a b': c}", "template.annotations: FieldValueInvalid"},
			{"template.spec.containers = []", "template.spec.containers: FieldValueRequired"},
			{"template.spec.ephemeralContainers = [{name: e, image: e}]", "template.spec.ephemeralContainers: FieldValueForbidden"},
		},
		update: []row{{"template.spec.containers[0].image = web:2", ""}},
	}
}
