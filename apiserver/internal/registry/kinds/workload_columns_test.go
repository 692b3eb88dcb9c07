package kinds_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// What kubectl prints of the workloads.
func TestWorkloadRows(t *testing.T) {
	now := time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	const meta, template = "metadata: {name: web, creationTimestamp: '2026-01-01T00:00:00Z'}", "{metadata: {labels: {app: web}}, spec: {nodeSelector: {disk: ssd}, containers: [{name: a, image: 'a:1'}, {name: b, image: 'b:2'}]}}"
	for _, c := range []struct{ resource, object, want string }{
		{"statefulsets.apps", "spec: {replicas: 3, template: " + template + "}\nstatus: {readyReplicas: 2}", "[web 2/3 60m a,b a:1,b:2]"},
		{
			"daemonsets.apps", "spec: {selector: {matchLabels: {app: web}}, template: " + template + "}\nstatus: {desiredNumberScheduled: 5, currentNumberScheduled: 4, numberReady: 3, updatedNumberScheduled: 2, numberAvailable: 1}",
			"[web 5 4 3 2 1 disk=ssd 60m a,b a:1,b:2 app=web]",
		},
		{"daemonsets.apps", "", "[web 0 0 0 0 0 <none> 60m   <none>]"},
		{"controllerrevisions.apps", "revision: 7", "[web <none> 7 60m]"},
		{"controllerrevisions.apps", "metadata: {name: web-1, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: u, controller: true}]}\nrevision: 1", "[web-1 statefulset.apps/web 1 <unknown>]"},
		{"replicationcontrollers", "spec: {replicas: 3, selector: {app: web}, template: " + template + "}\nstatus: {replicas: 2, readyReplicas: 1}", "[web 3 2 1 60m a,b a:1,b:2 app=web]"},
		{"podtemplates", "template: " + template, "[web a,b a:1,b:2 app=web]"},
		{"jobs.batch", "spec: {completions: 5, selector: {matchLabels: {a: b}}, template: " + template + "}\nstatus: {succeeded: 2, startTime: '2026-01-01T00:30:00Z'}", "[web Running 2/5 30m 60m a,b a:1,b:2 a=b]"},
		{"jobs.batch", "spec: {parallelism: 3}\nstatus: {succeeded: 1}", "[web Running 1/1 of 3  60m   <none>]"},
		{"jobs.batch", "spec: {parallelism: 1}\nstatus: {conditions: [{type: Suspended, status: 'True'}]}", "[web Suspended 0/1  60m   <none>]"},
		{"jobs.batch", "spec: {completions: 1}\nstatus: {succeeded: 1, startTime: '2026-01-01T00:30:00Z', completionTime: '2026-01-01T00:31:05Z', conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: Complete, status: 'True'}]}", "[web Complete 1/1 65s 60m   <none>]"},
		{"jobs.batch", "spec: {completions: 1}\nstatus: {conditions: [{type: FailureTarget, status: 'True'}, {type: Failed, status: 'True'}]}", "[web Failed 0/1  60m   <none>]"},
		{"jobs.batch", "spec: {completions: 1}\nstatus: {conditions: [{type: FailureTarget, status: 'True'}]}", "[web FailureTarget 0/1  60m   <none>]"},
		{"cronjobs.batch", "spec: {schedule: '@daily', suspend: true, timeZone: Etc/UTC, jobTemplate: {spec: {template: " + template + "}}}\nstatus: {active: [{name: a}], lastScheduleTime: '2026-01-01T00:59:30Z'}", "[web @daily Etc/UTC True 1 30s 60m a,b a:1,b:2 <none>]"},
		{"cronjobs.batch", "spec: {schedule: '@daily', suspend: false}", "[web @daily <none> False 0 <none> 60m   <none>]"},
		{"poddisruptionbudgets.policy", "spec: {minAvailable: 30%}\nstatus: {disruptionsAllowed: 2}", "[web 30% N/A 2 60m]"},
		{"poddisruptionbudgets.policy", "spec: {maxUnavailable: 1}", "[web N/A 1 0 60m]"},
		{"priorityclasses.scheduling.k8s.io", "value: 5\nglobalDefault: true\npreemptionPolicy: Never", "[web 5 true 60m Never]"},
		{"runtimeclasses.node.k8s.io", "handler: runsc", "[web runsc 60m]"},
		{"horizontalpodautoscalers.autoscaling", "spec: {scaleTargetRef: {kind: Deployment, name: web}, minReplicas: 2, maxReplicas: 9, metrics: [{type: Resource, resource: {name: cpu, target: {averageUtilization: 80}}}]}\nstatus: {currentReplicas: 3}", "[web Deployment/web cpu: <unknown>/80% 2 9 3 60m]"},
		{"horizontalpodautoscalers.autoscaling", "spec: {scaleTargetRef: {kind: Deployment, name: web}, maxReplicas: 9}", "[web Deployment/web <none> <unset> 9 0 60m]"},
		{
			"horizontalpodautoscalers.autoscaling", `
spec:
  scaleTargetRef: {kind: Deployment, name: web}
  maxReplicas: 9
  metrics:
  - {type: Resource, resource: {name: memory, target: {averageValue: 1Gi}}}
  - {type: External, external: {metric: {name: q}, target: {averageValue: 5}}}
  - {type: Pods, pods: {metric: {name: r}, target: {averageValue: 5}}}
status: {currentMetrics: [{type: Resource, resource: {name: memory, current: {averageValue: 500Mi}}}, {type: External, external: {metric: {name: q}, current: {averageValue: 3}}}]}
`, "[web Deployment/web memory: 500Mi/1Gi, 3/5 (avg) + 1 more... <unset> 9 0 60m]",
		},
		{
			"horizontalpodautoscalers.autoscaling", `
spec:
  scaleTargetRef: {kind: Deployment, name: web}
  maxReplicas: 9
  metrics:
  - {type: Object, object: {describedObject: {kind: Ingress, name: i}, metric: {name: r}, target: {value: 5k}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: a, target: {averageUtilization: 70}}}
status: {currentMetrics: [{type: Object, object: {describedObject: {kind: Ingress, name: i}, metric: {name: r}, current: {value: 2k}}}, {type: ContainerResource, containerResource: {name: cpu, container: a, current: {averageUtilization: 33}}}]}
`, "[web Deployment/web 2k/5k, cpu: 33%/70% <unset> 9 0 60m]",
		},
	} {
		kind := kindOf(t, c.resource)
		obj := kind.New()
		object := c.object
		if !strings.HasPrefix(object, "metadata:") {
			object = meta + "\n" + object
		}
		text, err := yaml.YAMLToJSON([]byte(object))
		if err != nil {
			t.Fatalf("%s: %v", c.object, err)
		}
		if err := json.Unmarshal(text, obj); err != nil {
			t.Fatalf("%s: %v", c.object, err)
		}
		if got := fmt.Sprint(kind.Row(obj, now)); got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.resource, c.object, got, c.want)
		}
	}
}
