package e2e

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/test/harness"
)

// workloadsManifest is one of each kind that Kubernetes' tutorials begin with.
const workloadsManifest = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: workloads}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 7, name: echo}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: workloads}
spec:
  serviceName: web
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: registry.kijabi.dev/toolbox:1
        args: [tcp-echo, ":7"]
        ports: [{containerPort: 7, name: echo}]
        readinessProbe: {tcpSocket: {port: 7}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: workloads}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: workloads}
spec:
  selector: {matchLabels: {name: agent}}
  template:
    metadata: {labels: {name: agent}}
    spec:
      tolerations: [{operator: Exists}]
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: "registry.kijabi.dev/toolbox:1", args: [sleep]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: pi, namespace: workloads}
spec:
  completions: 4
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "registry.kijabi.dev/toolbox:1", args: [echo, "3.14159"]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: hello, namespace: workloads}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: main, image: "registry.kijabi.dev/toolbox:1", args: [echo, hello]}]
`

// testWorkloads runs one of each kind on real nodes, by kubectl, and pulls the leader's plug meanwhile.
func testWorkloads(t *harness.T, c *cluster) {
	const ns = "workloads"
	c.namespace(t, ns)
	c.Apply(t, workloadsManifest)
	kubectl := func(args ...string) string {
		t.Helper()
		return c.Kubectl(t, append([]string{"-n", ns}, args...)...)
	}
	kubectl("rollout", "status", "statefulset/web", "--timeout=60s")
	kubectl("rollout", "status", "daemonset/agent", "--timeout=60s")
	kubectl("wait", "job/pi", "--for=condition=Complete", "--timeout=60s")
	if said := kubectl("logs", "job/pi"); !strings.Contains(said, "3.14159") {
		t.Errorf("the job said %q", said)
	}
	kubectl("create", "job", "now", "--from=cronjob/hello")
	kubectl("wait", "job/now", "--for=condition=Complete", "--timeout=60s")

	// A pod of a name keeps its volume.
	kubectl("exec", "web-0", "--", "/toolbox", "write", "/data/name", "first")
	kubectl("delete", "pod", "web-0")
	kubectl("rollout", "status", "statefulset/web", "--timeout=60s")
	if kept := kubectl("exec", "web-0", "--", "/toolbox", "cat", "/data/name"); !strings.Contains(kept, "first") {
		t.Errorf("the volume holds %q", kept)
	}

	// An update goes on under another leader, and a job's pods are counted once.
	kubectl("create", "job", "after", "--from=cronjob/hello")
	kubectl("set", "env", "statefulset/web", "UPDATED=yes")
	status, err := c.Status(t)
	if err != nil {
		t.Fatal(err)
	}
	leader := status.Leader
	c.Power(t, "kill", leader)
	harness.Eventually(t, 90*time.Second, "the update ends under another leader", func() error {
		pods, err := c.listPods(ns, "app=web")
		if err != nil {
			return err
		}
		updated := 0
		for _, pod := range pods {
			if isReady(pod) && len(pod.Spec.Containers[0].Env) == 1 {
				updated++
			}
		}
		if updated != 3 || len(pods) != 3 {
			return fmt.Errorf("%d of 3 are updated: %s", updated, describeAll(pods))
		}
		return nil
	})
	harness.Eventually(t, 60*time.Second, "the job that was begun before is complete", func() error {
		job, err := get[*batchv1.Job](c, ns, "after")
		if err == nil && (job.Status.Succeeded != 1 || job.Status.Failed != 0) {
			err = fmt.Errorf("status %+v", job.Status)
		}
		return err
	})
	c.Power(t, "start", leader)
	c.AwaitHealthy(t, time.Minute)

	kubectl("delete", "statefulset", "web")
	kubectl("delete", "persistentvolumeclaim", "--all")
	harness.Eventually(t, 30*time.Second, "the volumes go with their claims", func() error {
		volumes, err := list[*corev1.PersistentVolume](c, "", "")
		if err != nil {
			return err
		}
		for _, v := range volumes {
			if v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Namespace == ns {
				return fmt.Errorf("volume %s of claim %s is %s", v.Name, v.Spec.ClaimRef.Name, v.Status.Phase)
			}
		}
		return nil
	})
}
