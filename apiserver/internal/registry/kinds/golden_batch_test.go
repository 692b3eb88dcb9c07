package kinds_test

import "strings"

// generatedLabels are those of a job pi, whose uid is 1 in these tests.
const generatedLabels = "{batch.kubernetes.io/controller-uid: '1', batch.kubernetes.io/job-name: pi, controller-uid: '1', job-name: pi}"

func jobGolden() golden {
	const indexed = "spec.completionMode = Indexed & spec.completions = 5 & "
	const suspended = "spec.suspend = true => "
	const done = "status = {startTime: '2026-01-01T00:00:00Z', completionTime: '2026-01-01T00:01:00Z', succeeded: 1, conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: Complete, status: 'True'}]}"
	return golden{
		resource: "jobs.batch",
		base: `
metadata: {name: pi, namespace: default}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: pi, image: 'perl:5'}]
`,
		defaults: []row{
			{"", "spec.completions = 1 & spec.parallelism = 1 & spec.backoffLimit = 6 & spec.completionMode = NonIndexed & spec.suspend = false & spec.manualSelector = false & spec.podReplacementPolicy = TerminatingOrFailed"},
			{"", "spec.selector = {matchLabels: {batch.kubernetes.io/controller-uid: '1'}}"},
			{"", "spec.template.metadata.labels = " + generatedLabels},
			{"", "metadata.labels = " + generatedLabels},
			{"metadata.labels = {a: b}", "metadata.labels = {a: b}"},
			{"spec.template.metadata.labels = {a: b}", "metadata.labels.a = b & metadata.labels['batch.kubernetes.io/job-name'] = pi & spec.template.metadata.labels.a = b & spec.template.metadata.labels['controller-uid'] = '1'"},
			{"spec.parallelism = 3", "spec.completions = ~ & spec.parallelism = 3"},
			{"spec.completions = 3", "spec.completions = 3 & spec.parallelism = 1"},
			{"spec.parallelism = 0", "spec.completions = ~ & spec.parallelism = 0"},
			{indexed + "spec.backoffLimitPerIndex = 1", "spec.backoffLimit = 2147483647"},
			{"spec.backoffLimit = 0", "spec.backoffLimit = 0"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}", "spec.podReplacementPolicy = Failed & spec.podFailurePolicy.rules[0].onPodConditions[0].status = 'True'"},
			{"spec.manualSelector = true & spec.selector = {matchLabels: {a: b}} & spec.template.metadata.labels = {a: b}", "spec.selector = {matchLabels: {a: b}} & spec.template.metadata.labels = {a: b} & metadata.labels = {a: b}"},
			{"spec.template.metadata.labels = {job-name: pi}", "spec.template.metadata.labels['job-name'] = pi & spec.template.metadata.labels['controller-uid'] = '1'"},
			{"", "spec.template.spec.terminationGracePeriodSeconds = 30 & spec.template.spec.containers[0].terminationMessagePath = /dev/termination-log"},
			{"status = {active: 3}", "status = {}"},
			{"spec.scheduling = {}", "spec.scheduling = ~"},
		},
		valid: []string{
			"spec.template.spec.restartPolicy = OnFailure",
			"spec.completions = 0",
			"spec.activeDeadlineSeconds = 100 & spec.ttlSecondsAfterFinished = 0",
			indexed + "spec.parallelism = 5",
			indexed + "spec.backoffLimitPerIndex = 1 & spec.maxFailedIndexes = 5",
			indexed + "spec.successPolicy = {rules: [{succeededIndexes: '0,2-4', succeededCount: 4}]}",
			indexed + "spec.successPolicy = {rules: [{succeededCount: 5}]}",
			"spec.podFailurePolicy = {rules: [{action: FailJob, onExitCodes: {containerName: pi, operator: In, values: [1, 42]}}, {action: Count, onExitCodes: {operator: NotIn, values: [0]}}]}",
			"spec.podReplacementPolicy = Failed",
			"spec.managedBy = example.com/controller",
			"spec.suspend = true",
		},
		invalid: []row{
			{"metadata.name = Pi", "metadata.name: FieldValueInvalid"},
			{"spec.template.spec.restartPolicy = ~", "spec.template.spec.restartPolicy: FieldValueRequired"},
			{"spec.template.spec.restartPolicy = Always", "spec.template.spec.restartPolicy: FieldValueRequired"},
			{"spec.template.spec.restartPolicy = Odd", "spec.template.spec.restartPolicy: FieldValueNotSupported"},
			{"spec.template.spec.containers = []", "spec.template.spec.containers: FieldValueRequired"},
			{"spec.parallelism = -1", "spec.parallelism: FieldValueInvalid"},
			{"spec.completions = -1", "spec.completions: FieldValueInvalid"},
			{"spec.activeDeadlineSeconds = -1", "spec.activeDeadlineSeconds: FieldValueInvalid"},
			{"spec.backoffLimit = -1", "spec.backoffLimit: FieldValueInvalid"},
			{"spec.ttlSecondsAfterFinished = -1", "spec.ttlSecondsAfterFinished: FieldValueInvalid"},
			{"spec.completionMode = Odd", "spec.completionMode: FieldValueNotSupported"},
			{"spec.completionMode = Indexed & spec.parallelism = 2", "spec.completions: FieldValueRequired"},
			{indexed + "spec.parallelism = 100001", "spec.parallelism: FieldValueInvalid"},
			{indexed + "metadata.name = " + strings.Repeat("a", 62), "metadata.name: FieldValueInvalid"},
			{"spec.backoffLimitPerIndex = 1", "spec.backoffLimitPerIndex: FieldValueInvalid"},
			{"spec.maxFailedIndexes = 1", "spec.backoffLimitPerIndex: FieldValueRequired, spec.maxFailedIndexes: FieldValueInvalid"},
			{indexed + "spec.maxFailedIndexes = 1", "spec.backoffLimitPerIndex: FieldValueRequired"},
			{indexed + "spec.backoffLimitPerIndex = 1 & spec.maxFailedIndexes = 6", "spec.maxFailedIndexes: FieldValueInvalid"},
			{indexed + "spec.backoffLimitPerIndex = -1", "spec.backoffLimitPerIndex: FieldValueInvalid"},
			{"spec.completionMode = Indexed & spec.completions = 100001 & spec.backoffLimitPerIndex = 1 & spec.parallelism = 10001", "spec.maxFailedIndexes: FieldValueRequired, spec.parallelism: FieldValueInvalid"},
			{"spec.completionMode = Indexed & spec.completions = 100001 & spec.backoffLimitPerIndex = 1 & spec.maxFailedIndexes = 10001", "spec.maxFailedIndexes: FieldValueInvalid"},
			{"spec.successPolicy = {rules: [{succeededCount: 1}]}", "spec.successPolicy: FieldValueInvalid"},
			{indexed + "spec.successPolicy = {rules: []}", "spec.successPolicy.rules: FieldValueRequired"},
			{indexed + "spec.successPolicy = {rules: [{}]}", "spec.successPolicy.rules[0]: FieldValueRequired"},
			{indexed + "spec.successPolicy = {rules: [{succeededCount: 6}]}", "spec.successPolicy.rules[0].succeededCount: FieldValueInvalid"},
			{indexed + "spec.successPolicy = {rules: [{succeededCount: 3, succeededIndexes: 0-1}]}", "spec.successPolicy.rules[0].succeededCount: FieldValueInvalid"},
			{indexed + "spec.successPolicy = {rules: [{succeededIndexes: 0-5}]}", "spec.successPolicy.rules[0].succeededIndexes: FieldValueInvalid"},
			{indexed + "spec.successPolicy = {rules: [{succeededIndexes: '3,1'}]}", "spec.successPolicy.rules[0].succeededIndexes: FieldValueInvalid"},
			{indexed + "spec.successPolicy = {rules: [{succeededIndexes: 1-2-3}]}", "spec.successPolicy.rules[0].succeededIndexes: FieldValueInvalid"},
			{indexed + "spec.successPolicy = {rules: [{succeededIndexes: x}]}", "spec.successPolicy.rules[0].succeededIndexes: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: '', onExitCodes: {operator: In, values: [1]}}]}", "spec.podFailurePolicy.rules[0].action: FieldValueRequired"},
			{"spec.podFailurePolicy = {rules: [{action: Odd, onExitCodes: {operator: In, values: [1]}}]}", "spec.podFailurePolicy.rules[0].action: FieldValueNotSupported"},
			{"spec.podFailurePolicy = {rules: [{action: FailIndex, onExitCodes: {operator: In, values: [1]}}]}", "spec.podFailurePolicy.rules[0].action: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore}]}", "spec.podFailurePolicy.rules[0]: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onExitCodes: {operator: In, values: [1]}, onPodConditions: [{type: a}]}]}", "spec.podFailurePolicy.rules[0]: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onExitCodes: {operator: '', values: [1]}}]}", "spec.podFailurePolicy.rules[0].onExitCodes.operator: FieldValueRequired"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onExitCodes: {operator: Odd, values: [1]}}]}", "spec.podFailurePolicy.rules[0].onExitCodes.operator: FieldValueNotSupported"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onExitCodes: {operator: In, values: []}}]}", "spec.podFailurePolicy.rules[0].onExitCodes.values: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onExitCodes: {operator: In, values: [0]}}]}", "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onExitCodes: {operator: In, values: [2, 2]}}]}", "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: FieldValueDuplicate"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onExitCodes: {operator: In, values: [2, 1]}}]}", "spec.podFailurePolicy.rules[0].onExitCodes.values: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onExitCodes: {containerName: x, operator: In, values: [1]}}]}", "spec.podFailurePolicy.rules[0].onExitCodes.containerName: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onPodConditions: [{type: 'a b', status: Odd}]}]}", "spec.podFailurePolicy.rules[0].onPodConditions[0].status: FieldValueNotSupported, spec.podFailurePolicy.rules[0].onPodConditions[0].type: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: [{action: Ignore, onPodConditions: [{type: a}]}]} & spec.template.spec.restartPolicy = OnFailure", "spec.template.spec.restartPolicy: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: []} & spec.podReplacementPolicy = TerminatingOrFailed", "spec.podReplacementPolicy: FieldValueNotSupported"},
			{"spec.podReplacementPolicy = Odd", "spec.podReplacementPolicy: FieldValueNotSupported"},
			{"spec.managedBy = plain", "spec.managedBy: FieldValueInvalid"},
			{"spec.managedBy = example.com/" + strings.Repeat("a", 60), "spec.managedBy: FieldValueTooLong"},
			{"spec.selector = {matchLabels: {a: b}}", "spec.selector: FieldValueInvalid, spec.template.metadata.labels: FieldValueInvalid"},
			{"spec.template.metadata.labels = {job-name: other}", "spec.template.metadata.labels[job-name]: FieldValueInvalid"},
			{"spec.template.metadata.labels = {batch.kubernetes.io/controller-uid: other}", "spec.template.metadata.labels: FieldValueInvalid, spec.template.metadata.labels[batch.kubernetes.io/controller-uid]: FieldValueInvalid"},
			{"spec.selector = {matchLabels: {batch.kubernetes.io/controller-uid: other}}", "spec.selector: FieldValueInvalid, spec.template.metadata.labels: FieldValueInvalid"},
			{"spec.manualSelector = true", "spec.selector: FieldValueRequired"},
			{"spec.manualSelector = true & spec.selector = {matchLabels: {a: b}}", "spec.template.metadata.labels: FieldValueInvalid"},
		},
		update: []row{
			{"spec.parallelism = 0", ""},
			{"spec.suspend = true & spec.backoffLimit = 2 & spec.activeDeadlineSeconds = 9 & spec.ttlSecondsAfterFinished = 3", ""},
			{"spec.completions = 2", "spec.completions: FieldValueInvalid"},
			{"spec.completionMode = Indexed & spec.completions = 5 & spec.parallelism = 5 => spec.completions = 3 & spec.parallelism = 3", ""},
			{"spec.completionMode = Indexed & spec.completions = 5 & spec.parallelism = 5 => spec.completions = 3", "spec.completions: FieldValueInvalid"},
			{"spec.completionMode = Indexed & spec.completions = 5 => spec.completions = ~", "spec.completions: FieldValueRequired"},
			{"spec.completionMode = Indexed", "spec.completionMode: FieldValueInvalid"},
			{"spec.template.spec.containers[0].image = perl:6", "spec.template: FieldValueInvalid"},
			{"spec.template.spec.nodeSelector = {a: b}", "spec.template: FieldValueInvalid"},
			{suspended + "spec.template.spec.nodeSelector = {a: b} & spec.template.spec.tolerations = [{key: a, operator: Exists}] & spec.template.metadata.annotations = {a: b}", ""},
			{suspended + "spec.template.metadata.labels.more = yes1 & spec.template.spec.schedulingGates = [{name: a}]", ""},
			{suspended + "spec.template.spec.affinity = {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}", ""},
			{suspended + "spec.template.spec.affinity = {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: z, labelSelector: {}}]}}", "spec.template: FieldValueInvalid"},
			{suspended + "spec.template.spec.containers[0].resources = {requests: {cpu: 1}}", ""},
			{suspended + "spec.template.spec.containers[0].image = perl:6", "spec.template: FieldValueInvalid"},
			{"spec.podFailurePolicy = {rules: []}", "spec.podFailurePolicy: FieldValueInvalid, spec.podReplacementPolicy: FieldValueNotSupported"},
			{"spec.completionMode = Indexed & spec.completions = 5 & spec.backoffLimitPerIndex = 1 => spec.backoffLimitPerIndex = 2", "spec.backoffLimitPerIndex: FieldValueInvalid"},
			{"spec.completionMode = Indexed & spec.completions = 5 => spec.successPolicy = {rules: [{succeededCount: 1}]}", "spec.successPolicy: FieldValueInvalid"},
			{"spec.managedBy = example.com/a", "spec.managedBy: FieldValueInvalid"},
			{"spec.selector.matchLabels = {job-name: pi}", "spec.selector: FieldValueInvalid"},
			{"status.active = 1", ""},
		},
		status: []row{
			{"status = {active: 1, ready: 1, startTime: '2026-01-01T00:00:00Z'}", ""},
			{done, ""},
			{"status = {startTime: '2026-01-01T00:00:00Z', failed: 7, conditions: [{type: FailureTarget, status: 'True'}, {type: Failed, status: 'True', reason: BackoffLimitExceeded}]}", ""},
			{"status.active = -1", "status.active: FieldValueInvalid"},
			{"status.succeeded = -1", "status.succeeded: FieldValueInvalid"},
			{"status.failed = -1", "status.failed: FieldValueInvalid"},
			{"status.terminating = -1", "status.terminating: FieldValueInvalid"},
			{"status = {active: 1, ready: 2}", "status.ready: FieldValueInvalid"},
			{"status.uncountedTerminatedPods = {succeeded: [a], failed: [a, '']}", "status.uncountedTerminatedPods.failed[0]: FieldValueDuplicate, status.uncountedTerminatedPods.failed[1]: FieldValueInvalid"},
			{"status = {startTime: '2026-01-01T00:00:00Z', conditions: [{type: Failed, status: 'True'}]}", "status.conditions: FieldValueInvalid"},
			{"status = {startTime: '2026-01-01T00:00:00Z', completionTime: '2026-01-01T00:01:00Z', conditions: [{type: Complete, status: 'True'}]}", "status.conditions: FieldValueInvalid"},
			{"status = {conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: FailureTarget, status: 'True'}]}", "status.conditions: FieldValueInvalid"},
			{"status = {completionTime: '2026-01-01T00:01:00Z'}", "status.completionTime: FieldValueInvalid"},
			{done + " & status.completionTime = ~", "status.completionTime: FieldValueRequired"},
			{done + " & status.completionTime = '2025-01-01T00:00:00Z'", "status.completionTime: FieldValueInvalid"},
			{done + " & status.startTime = ~", "status.startTime: FieldValueRequired"},
			{done + " & status.active = 1", "status.active: FieldValueInvalid"},
			{done + " & status.terminating = 1", "status.terminating: FieldValueInvalid"},
			{done + " & status.uncountedTerminatedPods = {succeeded: [a]}", "status.uncountedTerminatedPods: FieldValueInvalid"},
			{"status.completedIndexes = 0-1", "status.completedIndexes: FieldValueInvalid"},
			{"status.failedIndexes = '0'", "status.failedIndexes: FieldValueInvalid"},
			{"spec.completionMode = Indexed & spec.completions = 5 => status.completedIndexes = 0-1,3", ""},
			{"spec.completionMode = Indexed & spec.completions = 5 => status.completedIndexes = 0-5", "status.completedIndexes: FieldValueInvalid"},
			{"spec.completionMode = Indexed & spec.completions = 5 & spec.backoffLimitPerIndex = 1 => status = {completedIndexes: 0-2, failedIndexes: '2,4'}", "status.failedIndexes: FieldValueInvalid"},
			{"spec.completionMode = Indexed & spec.completions = 5 & spec.backoffLimitPerIndex = 1 => status = {completedIndexes: '0-1,4', failedIndexes: 2-3}", ""},
		},
	}
}

func cronJobGolden() golden {
	const template = "spec.jobTemplate.spec.template.spec"
	return golden{
		resource: "cronjobs.batch",
		base: `
metadata: {name: backup, namespace: default}
spec:
  schedule: '*/5 * * * *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: backup, image: 'backup:1'}]
`,
		defaults: []row{
			{"", "spec.concurrencyPolicy = Allow & spec.suspend = false & spec.successfulJobsHistoryLimit = 3 & spec.failedJobsHistoryLimit = 1"},
			{"", template + ".dnsPolicy = ClusterFirst & spec.jobTemplate.spec.completions = ~ & spec.jobTemplate.spec.selector = ~ & spec.jobTemplate.spec.backoffLimit = ~"},
			{"spec.successfulJobsHistoryLimit = 0", "spec.successfulJobsHistoryLimit = 0"},
			{"spec.concurrencyPolicy = Replace", "spec.concurrencyPolicy = Replace"},
			{template + ".restartPolicy = Never & spec.jobTemplate.spec.podFailurePolicy = {rules: [{action: Ignore, onPodConditions: [{type: a}]}]}", "spec.jobTemplate.spec.podFailurePolicy.rules[0].onPodConditions[0].status = 'True'"},
			{"status = {lastScheduleTime: '2026-01-01T00:00:00Z'}", "status = {}"},
		},
		valid: []string{
			"spec.schedule = '@hourly'",
			"spec.schedule = '@every 1h30m'",
			"spec.schedule = '0 22 * * 1-5'",
			"spec.schedule = '23 0-20/2 * JAN,JUN sun'",
			"spec.schedule = '0 0 ? * ?'",
			"spec.timeZone = Europe/Berlin",
			"spec.timeZone = Etc/UTC",
			"spec.timeZone = America/Argentina/Buenos_Aires",
			"spec.startingDeadlineSeconds = 0",
			"spec.concurrencyPolicy = Forbid",
			"spec.jobTemplate.spec.completionMode = Indexed & spec.jobTemplate.spec.completions = 3",
			"metadata.name = " + strings.Repeat("a", 52),
		},
		invalid: []row{
			{"metadata.name = " + strings.Repeat("a", 53), "metadata.name: FieldValueInvalid"},
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"spec.schedule = ''", "spec.schedule: FieldValueRequired"},
			{"spec.schedule = '* * * *'", "spec.schedule: FieldValueInvalid"},
			{"spec.schedule = '60 * * * *'", "spec.schedule: FieldValueInvalid"},
			{"spec.schedule = '* * * * * *'", "spec.schedule: FieldValueInvalid"},
			{"spec.schedule = '@sometimes'", "spec.schedule: FieldValueInvalid"},
			{"spec.schedule = 'CRON_TZ=UTC * * * * *'", "spec.schedule: FieldValueInvalid"},
			{"spec.schedule = 'TZ=Europe/Rome 0 * * * *'", "spec.schedule: FieldValueInvalid"},
			{"spec.timeZone = ''", "spec.timeZone: FieldValueInvalid"},
			{"spec.timeZone = local", "spec.timeZone: FieldValueInvalid"},
			{"spec.timeZone = Europe/Nowhere", "spec.timeZone: FieldValueInvalid"},
			{"spec.timeZone = ../etc/passwd", "spec.timeZone: FieldValueInvalid"},
			{"spec.timeZone = Europe//Rome", "spec.timeZone: FieldValueInvalid"},
			{"spec.timeZone = /Europe/Rome", "spec.timeZone: FieldValueInvalid"},
			{"spec.startingDeadlineSeconds = -1", "spec.startingDeadlineSeconds: FieldValueInvalid"},
			{"spec.concurrencyPolicy = Odd", "spec.concurrencyPolicy: FieldValueNotSupported"},
			{"spec.successfulJobsHistoryLimit = -1", "spec.successfulJobsHistoryLimit: FieldValueInvalid"},
			{"spec.failedJobsHistoryLimit = -1", "spec.failedJobsHistoryLimit: FieldValueInvalid"},
			{"spec.jobTemplate.spec.selector = {matchLabels: {a: b}}", "spec.jobTemplate.spec.selector: FieldValueInvalid"},
			{"spec.jobTemplate.spec.manualSelector = true", "spec.jobTemplate.spec.manualSelector: FieldValueNotSupported"},
			{"spec.jobTemplate.spec.backoffLimit = -1", "spec.jobTemplate.spec.backoffLimit: FieldValueInvalid"},
			{"spec.jobTemplate.spec.completionMode = Indexed", "spec.jobTemplate.spec.completions: FieldValueRequired"},
			{template + ".restartPolicy = ~", template + ".restartPolicy: FieldValueRequired"},
			{template + ".containers[0].image = ''", template + ".containers[0].image: FieldValueRequired"},
		},
		update: []row{
			{"spec.schedule = '@daily' & spec.suspend = true & spec.timeZone = Asia/Tokyo", ""},
			{template + ".containers[0].image = backup:2", ""},
			{"spec.schedule = nonsense", "spec.schedule: FieldValueInvalid"},
			{"status = {active: [{name: a}]}", ""},
		},
		status: []row{
			{"status = {active: [{kind: Job, name: a, namespace: default}], lastScheduleTime: '2026-01-01T00:00:00Z'}", ""},
		},
	}
}
