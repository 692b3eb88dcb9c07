package kinds_test

func disruptionBudgetGolden() golden {
	return golden{
		resource: "poddisruptionbudgets.policy",
		base:     "metadata: {name: web, namespace: default}\nspec: {minAvailable: 2, selector: {matchLabels: {app: web}}}",
		defaults: []row{
			{"", "spec.minAvailable = 2 & spec.maxUnavailable = ~ & spec.unhealthyPodEvictionPolicy = ~"},
			{"status = {disruptionsAllowed: 3, currentHealthy: 5, desiredHealthy: 2, expectedPods: 5}", "status = {disruptionsAllowed: 0, currentHealthy: 0, desiredHealthy: 0, expectedPods: 0}"},
		},
		valid: []string{
			"spec.minAvailable = 0",
			"spec.minAvailable = 100%",
			"spec.minAvailable = ~ & spec.maxUnavailable = 30%",
			"spec.minAvailable = ~",
			"spec.selector = {}",
			"spec.selector = ~",
			"spec.unhealthyPodEvictionPolicy = AlwaysAllow",
			"spec.unhealthyPodEvictionPolicy = IfHealthyBudget",
		},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"spec.maxUnavailable = 1", "spec: FieldValueInvalid"},
			{"spec.minAvailable = -1", "spec.minAvailable: FieldValueInvalid"},
			{"spec.minAvailable = x", "spec.minAvailable: FieldValueInvalid"},
			{"spec.minAvailable = 101%", "spec.minAvailable: FieldValueInvalid"},
			{"spec.minAvailable = ~ & spec.maxUnavailable = -3", "spec.maxUnavailable: FieldValueInvalid"},
			{"spec.minAvailable = ~ & spec.maxUnavailable = 110%", "spec.maxUnavailable: FieldValueInvalid"},
			{"spec.selector = {matchExpressions: [{key: a, operator: In}]}", "spec.selector.matchExpressions[0].values: FieldValueRequired"},
			{"spec.selector = {matchLabels: {a: 'b c'}}", "spec.selector.matchLabels: FieldValueInvalid"},
			{"spec.unhealthyPodEvictionPolicy = Odd", "spec.unhealthyPodEvictionPolicy: FieldValueNotSupported"},
		},
		update: []row{
			{"spec.minAvailable = 3 & spec.selector = {matchLabels: {app: other}}", ""},
			{"spec.minAvailable = ~ & spec.maxUnavailable = 1", ""},
			{"spec.maxUnavailable = 1", "spec: FieldValueInvalid"},
			{"status.disruptionsAllowed = 3", ""},
		},
		status: []row{
			{"status = {disruptionsAllowed: 1, currentHealthy: 3, desiredHealthy: 2, expectedPods: 3, disruptedPods: {a: '2026-01-01T00:00:00Z'}}", ""},
			{"status.disruptionsAllowed = -1", "status.disruptionsAllowed: FieldValueInvalid"},
			{"status.currentHealthy = -1", "status.currentHealthy: FieldValueInvalid"},
			{"status.desiredHealthy = -1", "status.desiredHealthy: FieldValueInvalid"},
			{"status.expectedPods = -1", "status.expectedPods: FieldValueInvalid"},
			{"status.conditions = [{type: DisruptionAllowed, status: Odd, reason: '', lastTransitionTime: '2026-01-01T00:00:00Z', message: ''}]", "status.conditions[0].reason: FieldValueRequired, status.conditions[0].status: FieldValueNotSupported"},
		},
	}
}

func priorityClassGolden() golden {
	return golden{
		resource: "priorityclasses.scheduling.k8s.io",
		base:     "metadata: {name: high}\nvalue: 1000",
		defaults: []row{
			{"", "preemptionPolicy = PreemptLowerPriority & globalDefault = ~"},
			{"preemptionPolicy = Never", "preemptionPolicy = Never"},
		},
		valid: []string{
			"value = 1000000000", "value = -5", "globalDefault = true & description = text",
			"metadata.name = system-node-critical & value = 2000001000",
			"metadata.name = system-cluster-critical & value = 2000000000",
		},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"metadata.namespace = default", "metadata.namespace: FieldValueForbidden"},
			{"value = 1000000001", "value: FieldValueForbidden"},
			{"metadata.name = system-mine", "metadata.name: FieldValueForbidden"},
			{"metadata.name = system-node-critical", "metadata.name: FieldValueForbidden"},
			{"metadata.name = system-node-critical & value = 2000001000 & globalDefault = true", "metadata.name: FieldValueForbidden"},
			{"preemptionPolicy = Odd", "preemptionPolicy: FieldValueNotSupported"},
			{"preemptionPolicy = ''", "preemptionPolicy: FieldValueRequired"},
		},
		update: []row{
			{"description = other & globalDefault = true", ""},
			{"value = 2000", "value: FieldValueForbidden"},
			{"preemptionPolicy = Never", "preemptionPolicy: FieldValueInvalid"},
		},
	}
}

func runtimeClassGolden() golden {
	return golden{
		resource: "runtimeclasses.node.k8s.io",
		base:     "metadata: {name: gvisor}\nhandler: runsc",
		valid: []string{
			"overhead = {podFixed: {cpu: 250m, memory: 120Mi}}",
			"scheduling = {nodeSelector: {a: b}, tolerations: [{key: a, operator: Exists}, {key: b, operator: Exists}]}",
		},
		invalid: []row{
			{"handler = ''", "handler: FieldValueInvalid"},
			{"handler = a.b", "handler: FieldValueInvalid"},
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"overhead = {podFixed: {cpu: -1}}", "overhead.podFixed[cpu]: FieldValueInvalid"},
			{"scheduling = {nodeSelector: {'a b': c}}", "scheduling.nodeSelector: FieldValueInvalid"},
			{"scheduling = {tolerations: [{key: a, operator: Odd}]}", "scheduling.tolerations[0].operator: FieldValueNotSupported"},
			{"scheduling = {tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 3}, {key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 3}]}", "scheduling.tolerations[1]: FieldValueDuplicate"},
		},
		update: []row{
			{"overhead = {podFixed: {cpu: 250m}}", ""},
			{"handler = kata", "handler: FieldValueInvalid"},
		},
	}
}
