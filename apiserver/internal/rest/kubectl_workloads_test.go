package rest

import "testing"

const workloadsManifest = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: db, volumeMounts: [{name: data, mountPath: /data}]}]}
  volumeClaimTemplates:
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: c, image: agent}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: pi}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: perl}]}}}
---
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: old}
spec: {scaleTargetRef: {kind: StatefulSet, name: db, apiVersion: apps/v1}, maxReplicas: 4, targetCPUUtilizationPercentage: 60}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: gvisor}
handler: runsc
---
apiVersion: v1
kind: ReplicationController
metadata: {name: rc}
spec: {template: {metadata: {labels: {app: rc}}, spec: {containers: [{name: c, image: web}]}}}
`

const cronManifest = `apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec: {schedule: "*/5 * * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}}}
`

// The workload kinds as people use them.
func TestKubectlWorkloads(t *testing.T) {
	k := newKubectl(newRealHarness(t))
	k.feed(workloadsManifest, "apply -f -", "statefulset.apps/db created", "daemonset.apps/agent created", "job.batch/pi created", "horizontalpodautoscaler.autoscaling/old created", "runtimeclass.node.k8s.io/gvisor created", "replicationcontroller/rc created")
	// kubectl compares lists such as that of the claims whole, defaults included.
	before, _ := k.run("", "get", "sts", "db", "-o", "jsonpath={.metadata.resourceVersion}")
	k.feed(workloadsManifest, "apply -f -", "statefulset.apps/db configured", "daemonset.apps/agent unchanged", "job.batch/pi unchanged", "horizontalpodautoscaler.autoscaling/old unchanged", "runtimeclass.node.k8s.io/gvisor unchanged", "replicationcontroller/rc unchanged")
	k.ok("get sts db -o jsonpath={.metadata.resourceVersion}", before)
	if out, ok := k.run(workloadsManifest, "diff", "-f", "-"); !ok {
		t.Errorf("what was applied differs: %s", out)
	}
	k.feed(workloadsManifest, "apply --server-side -f - --force-conflicts", "statefulset.apps/db serverside-applied", "horizontalpodautoscaler.autoscaling/old serverside-applied")

	k.ok("scale statefulset db --replicas=3", "scaled")
	k.ok("scale rc rc --replicas=2", "scaled")
	k.ok("get sts,rc -o wide", "0/3", "db", "rc")
	k.ok("get ds agent -o jsonpath={.metadata.annotations}", `"deprecated.daemonset.template.generation":"1"`)
	k.ok("set image daemonset/agent c=other", "image updated")
	k.ok("get ds agent -o jsonpath={.metadata.annotations}", `"deprecated.daemonset.template.generation":"2"`)
	k.ok("rollout restart statefulset/db", "restarted")
	k.fails("", `patch sts db --type=merge -p {"spec":{"serviceName":"other"}}`, "updates to statefulset spec for fields other than")
	k.ok("describe statefulset db", "Volume Claims:", "data")

	k.ok("get jobs", "pi", "Running", "0/1")
	k.ok("describe job pi", "Parallelism:", "batch.kubernetes.io/controller-uid")
	k.fails("", "set image job/pi c=other", "field is immutable")
	k.feed(cronManifest, "create -f -", "cronjob.batch/tick created")
	k.ok("create job once --from=cronjob/tick", "job.batch/once created")
	k.ok("get cj tick", "*/5 * * * *", "<none>", "False")

	k.ok("autoscale statefulset db --name=new --min=2 --max=5 --cpu=70%", "autoscaled")
	k.ok("get hpa", "StatefulSet/db", "cpu: <unknown>/70%", "cpu: <unknown>/60%")
	k.ok("get horizontalpodautoscalers.v1.autoscaling new -o jsonpath={.spec.targetCPUUtilizationPercentage}", "70")
	k.ok("describe hpa old", "resource cpu on pods", "60%")

	k.ok("create pdb web --selector=app=db --min-available=50%", "created")
	k.ok("get pdb", "web", "50%", "N/A")
	k.ok("create priorityclass high --value=1000 --description=text", "created")
	k.ok("get pc", "high", "1000", "PreemptLowerPriority")
	k.fails("", "create priorityclass system-mine --value=1", "reserved for system use only")
	k.ok("get runtimeclasses", "gvisor", "runsc")
	k.ok("get all", "statefulset.apps/db", "daemonset.apps/agent", "job.batch/pi", "cronjob.batch/tick", "horizontalpodautoscaler.autoscaling/old", "replicationcontroller/rc")
	k.ok("explain hpa.spec --api-version=autoscaling/v1", "targetCPUUtilizationPercentage")
	k.ok("explain job.spec.completionMode", "completionMode")
	k.ok("delete sts,ds,jobs,cj,hpa,pdb,rc --all --cascade=background", `"db"`, `"agent"`, `"pi"`, `"tick"`, `"old"`, `"web"`, `"rc"`)
}

const drainedManifest = `apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: x}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
`

// A drain waits until the budget allows it to go on.
func TestKubectlDrain(t *testing.T) {
	k := newKubectl(newRealHarness(t))
	k.feed(drainedManifest, "create -f -", "created")
	k.ok(`patch pod web --subresource=status --type=merge -p {"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`, "patched")
	k.ok(`patch pdb web --subresource=status --type=merge -p {"status":{"observedGeneration":1,"currentHealthy":1,"desiredHealthy":1,"expectedPods":1}}`, "patched")
	const drain = "drain n1 --force --grace-period=0 --timeout=2s"
	k.fails("", drain, "Cannot evict pod as it would violate the pod's disruption budget.")
	k.ok("get pod web", "Running")
	k.ok(`patch pdb web --subresource=status --type=merge -p {"status":{"currentHealthy":2,"disruptionsAllowed":1}}`, "patched")
	k.ok(drain, "pod/web evicted", "node/n1 drained")
	k.ok("get pdb web -o jsonpath={.status}", `"disruptionsAllowed":0`, `"disruptedPods":{"web":`)
}
