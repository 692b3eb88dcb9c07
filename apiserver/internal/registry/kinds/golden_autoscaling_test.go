package kinds_test

func autoscalerGolden() golden {
	const metric, target = "spec.metrics = [{type: ", "target: {type: AverageValue, averageValue: 10}"
	return golden{
		resource: "horizontalpodautoscalers.autoscaling",
		base: `
metadata: {name: web, namespace: default}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 5
`,
		defaults: []row{
			{"", "spec.minReplicas = 1 & spec.metrics = [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}] & spec.behavior = ~"},
			{"spec.minReplicas = 2", "spec.minReplicas = 2"},
			{"spec.metrics = [{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}]", "spec.metrics = [{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}]"},
			{"spec.behavior = {}", "spec.behavior.scaleUp = {stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 4, periodSeconds: 15}, {type: Percent, value: 100, periodSeconds: 15}]}"},
			{"spec.behavior = {}", "spec.behavior.scaleDown = {selectPolicy: Max, policies: [{type: Percent, value: 100, periodSeconds: 15}]}"},
			{"spec.behavior = {scaleDown: {stabilizationWindowSeconds: 60, selectPolicy: Min}}", "spec.behavior.scaleDown = {stabilizationWindowSeconds: 60, selectPolicy: Min, policies: [{type: Percent, value: 100, periodSeconds: 15}]}"},
			{"spec.behavior = {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 60}]}}", "spec.behavior.scaleUp = {stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 1, periodSeconds: 60}]}"},
			{"spec.behavior = {scaleUp: {tolerance: 50m}}", "spec.behavior.scaleUp.tolerance = 50m"},
			{"status = {currentReplicas: 3, desiredReplicas: 3, currentMetrics: []}", "status.desiredReplicas = 0"},
		},
		valid: []string{
			metric + "Pods, pods: {metric: {name: requests}, " + target + "}}]",
			metric + "Object, object: {describedObject: {kind: Ingress, name: main}, metric: {name: requests}, target: {type: Value, value: 2k}}}]",
			metric + "External, external: {metric: {name: queue, selector: {matchLabels: {queue: a}}}, " + target + "}}]",
			metric + "ContainerResource, containerResource: {name: cpu, container: web, target: {type: Utilization, averageUtilization: 60}}}]",
			"spec.behavior = {scaleUp: {selectPolicy: Disabled}, scaleDown: {stabilizationWindowSeconds: 3600}}",
		},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"spec.minReplicas = 0", "spec.minReplicas: FieldValueInvalid"},
			{"spec.maxReplicas = 0", "spec.maxReplicas: FieldValueInvalid"},
			{"spec.minReplicas = 6", "spec.maxReplicas: FieldValueInvalid"},
			{"spec.scaleTargetRef = {kind: '', name: ''}", "spec.scaleTargetRef.kind: FieldValueRequired, spec.scaleTargetRef.name: FieldValueRequired"},
			{"spec.scaleTargetRef = {kind: a/b, name: '..'}", "spec.scaleTargetRef.kind: FieldValueInvalid, spec.scaleTargetRef.name: FieldValueInvalid"},
			{"spec.metrics = [{type: ''}]", "spec.metrics[0].type: FieldValueRequired"},
			{"spec.metrics = [{type: Odd}]", "spec.metrics[0].type: FieldValueNotSupported"},
			{"spec.metrics = [{type: Pods}]", "spec.metrics[0].pods: FieldValueRequired"},
			{"spec.metrics = [{type: Resource}]", "spec.metrics[0].resource: FieldValueRequired"},
			{"spec.metrics = [{type: Object}]", "spec.metrics[0].object: FieldValueRequired"},
			{"spec.metrics = [{type: External}]", "spec.metrics[0].external: FieldValueRequired"},
			{"spec.metrics = [{type: ContainerResource}]", "spec.metrics[0].containerResource: FieldValueRequired"},
			{metric + "Pods, pods: {metric: {name: r}, " + target + "}, resource: {name: cpu, target: {type: Utilization, averageUtilization: 1}}}]", "spec.metrics[0].resource: FieldValueForbidden"},
			{metric + "Pods, pods: {metric: {name: ''}, " + target + "}}]", "spec.metrics[0].pods.metric.name: FieldValueRequired"},
			{metric + "Pods, pods: {metric: {name: a/b}, " + target + "}}]", "spec.metrics[0].pods.metric.name: FieldValueInvalid"},
			{metric + "Pods, pods: {metric: {name: r}, target: {type: Value, value: 1}}}]", "spec.metrics[0].pods.target.averageValue: FieldValueRequired"},
			{metric + "Pods, pods: {metric: {name: r}, target: {type: '', averageValue: 1}}}]", "spec.metrics[0].pods.target.type: FieldValueRequired"},
			{metric + "Pods, pods: {metric: {name: r}, target: {type: Odd, averageValue: 1}}}]", "spec.metrics[0].pods.target.type: FieldValueInvalid"},
			{metric + "Pods, pods: {metric: {name: r}, target: {type: AverageValue, averageValue: 0}}}]", "spec.metrics[0].pods.target.averageValue: FieldValueInvalid"},
			{metric + "Resource, resource: {name: '', target: {type: Utilization, averageUtilization: 1}}}]", "spec.metrics[0].resource.name: FieldValueRequired"},
			{metric + "Resource, resource: {name: cpu, target: {type: Utilization}}}]", "spec.metrics[0].resource.target.averageUtilization: FieldValueRequired"},
			{metric + "Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 0}}}]", "spec.metrics[0].resource.target.averageUtilization: FieldValueInvalid"},
			{metric + "Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 1, averageValue: 1}}}]", "spec.metrics[0].resource.target.averageValue: FieldValueForbidden"},
			{metric + "ContainerResource, containerResource: {name: cpu, container: '', target: {type: Utilization, averageUtilization: 1}}}]", "spec.metrics[0].containerResource.container: FieldValueRequired"},
			{metric + "ContainerResource, containerResource: {name: cpu, container: A_, target: {type: Utilization, averageUtilization: 1}}}]", "spec.metrics[0].containerResource.container: FieldValueInvalid"},
			{metric + "ContainerResource, containerResource: {name: apples, container: web, target: {type: Utilization, averageUtilization: 1}}}]", "spec.metrics[0].containerResource.name: FieldValueInvalid"},
			{metric + "Object, object: {describedObject: {kind: Ingress, name: ''}, metric: {name: r}, target: {type: Value, value: 1}}}]", "spec.metrics[0].object.describedObject.name: FieldValueRequired"},
			{metric + "Object, object: {describedObject: {kind: Ingress, name: i}, metric: {name: r}, target: {type: Value}}}]", "spec.metrics[0].object.target.averageValue: FieldValueRequired"},
			{metric + "Object, object: {describedObject: {kind: Ingress, name: i}, metric: {name: r}, target: {type: Value, value: -1}}}]", "spec.metrics[0].object.target.value: FieldValueInvalid"},
			{metric + "External, external: {metric: {name: q}, target: {type: Value}}}]", "spec.metrics[0].external.target.averageValue: FieldValueRequired"},
			{metric + "External, external: {metric: {name: q}, target: {type: Value, value: 1, averageValue: 1}}}]", "spec.metrics[0].external.target.value: FieldValueForbidden"},
			{metric + "External, external: {metric: {name: q, selector: {matchExpressions: [{key: a, operator: Odd}]}}, " + target + "}}]", "spec.metrics[0].external.metric.selector.matchExpressions[0].operator: FieldValueInvalid"},
			{"spec.behavior = {scaleUp: {stabilizationWindowSeconds: -1}}", "spec.behavior.scaleUp.stabilizationWindowSeconds: FieldValueInvalid"},
			{"spec.behavior = {scaleDown: {stabilizationWindowSeconds: 3601}}", "spec.behavior.scaleDown.stabilizationWindowSeconds: FieldValueInvalid"},
			{"spec.behavior = {scaleUp: {selectPolicy: Odd}}", "spec.behavior.scaleUp.selectPolicy: FieldValueNotSupported"},
			{"spec.behavior = {scaleUp: {policies: []}}", "spec.behavior.scaleUp.policies: FieldValueRequired"},
			{"spec.behavior = {scaleUp: {policies: [{type: Odd, value: 1, periodSeconds: 1}]}}", "spec.behavior.scaleUp.policies[0].type: FieldValueNotSupported"},
			{"spec.behavior = {scaleUp: {policies: [{type: Pods, value: 0, periodSeconds: 1801}]}}", "spec.behavior.scaleUp.policies[0].periodSeconds: FieldValueInvalid, spec.behavior.scaleUp.policies[0].value: FieldValueInvalid"},
			{"spec.behavior = {scaleDown: {policies: [{type: Pods, value: 1, periodSeconds: 0}]}}", "spec.behavior.scaleDown.policies[0].periodSeconds: FieldValueInvalid"},
			{"spec.behavior = {scaleDown: {tolerance: -1}}", "spec.behavior.scaleDown.tolerance: FieldValueInvalid"},
		},
		update: []row{
			{"spec.maxReplicas = 9 & spec.minReplicas = 3", ""},
			{"spec.scaleTargetRef.name = other", ""},
			{"spec.maxReplicas = 0", "spec.maxReplicas: FieldValueInvalid"},
			{"status.currentReplicas = 2", ""},
		},
		status: []row{
			{"status = {currentReplicas: 1, desiredReplicas: 2, currentMetrics: [], conditions: [{type: AbleToScale, status: 'True'}]}", ""},
			{"status.currentReplicas = -1", "status.currentReplicas: FieldValueInvalid"},
			{"status.desiredReplicas = -1", "status.desiredReplicas: FieldValueInvalid"},
		},
	}
}

func oldAutoscalerGolden() golden {
	const metrics = "metadata.annotations['autoscaling.alpha.kubernetes.io/metrics']"
	const behavior = "metadata.annotations['autoscaling.alpha.kubernetes.io/behavior']"
	const memory = `'[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}}]'`
	return golden{
		resource: "horizontalpodautoscalers.autoscaling",
		version:  "v1",
		base: `
metadata: {name: web, namespace: default}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 5
`,
		defaults: []row{
			{"", "spec.minReplicas = 1 & spec.targetCPUUtilizationPercentage = 80 & metadata.annotations = ~"},
			{"spec.targetCPUUtilizationPercentage = 50", "spec.targetCPUUtilizationPercentage = 50"},
			{metrics + " = " + memory, "spec.targetCPUUtilizationPercentage = ~ & " + metrics + " = " + memory},
			{metrics + " = " + memory + " & spec.targetCPUUtilizationPercentage = 50", "spec.targetCPUUtilizationPercentage = 50 & " + metrics + " = " + memory},
			{behavior + " = '{\"ScaleUp\":{\"SelectPolicy\":\"Disabled\"}}'", behavior + ` = '{"scaleUp":{"stabilizationWindowSeconds":0,"selectPolicy":"Disabled","policies":[{"type":"Pods","value":4,"periodSeconds":15},{"type":"Percent","value":100,"periodSeconds":15}]},"scaleDown":{"selectPolicy":"Max","policies":[{"type":"Percent","value":100,"periodSeconds":15}]}}'`},
			{"metadata.annotations = {a: b, autoscaling.alpha.kubernetes.io/conditions: '[{\"type\":\"AbleToScale\",\"status\":\"True\"}]'}", "metadata.annotations = {a: b}"},
			{"status = {currentReplicas: 3, desiredReplicas: 3, currentCPUUtilizationPercentage: 7}", "status = {currentReplicas: 0, desiredReplicas: 0}"},
		},
		invalid: []row{
			{"spec.maxReplicas = 0", "spec.maxReplicas: FieldValueInvalid"},
			{"spec.minReplicas = 0", "spec.minReplicas: FieldValueInvalid"},
			{"spec.scaleTargetRef.kind = ''", "spec.scaleTargetRef.kind: FieldValueRequired"},
			{"spec.targetCPUUtilizationPercentage = 0", "spec.metrics[0].resource.target.averageUtilization: FieldValueInvalid"},
			{metrics + " = nonsense", "metadata.annotations[autoscaling.alpha.kubernetes.io/metrics]: FieldValueInvalid"},
			{metrics + ` = '[{"type":"Pods","pods":{"metricName":"","targetAverageValue":"1"}}]'`, "spec.metrics[0].pods.metric.name: FieldValueRequired"},
		},
		update: []row{
			{"spec.maxReplicas = 9", ""},
			{"spec.maxReplicas = 0", "spec.maxReplicas: FieldValueInvalid"},
			{"status.currentReplicas = 2", ""},
		},
		status: []row{
			{"status = {currentReplicas: 1, desiredReplicas: 2, currentCPUUtilizationPercentage: 10}", ""},
			{"status.currentReplicas = -1", "status.currentReplicas: FieldValueInvalid"},
		},
	}
}
