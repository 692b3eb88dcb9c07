package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/kube/object"
)

// admitting returns a leading registry with the rules of admission.
func admitting(t testing.TB) *master {
	return leader(t, func(c *registry.Config) {
		c.RootCA = []byte("a certificate")
		c.Admission = &admission.Config{IsMaster: func(name string) bool { return name == "master-1" }}
	})
}

// parse reads a manifest.
func parse(t testing.TB, manifest string) object.Object {
	t.Helper()
	text, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatalf("%v in\n%s", err, manifest)
	}
	var meta metav1.TypeMeta
	if err := json.Unmarshal(text, &meta); err != nil {
		t.Fatal(err)
	}
	for _, kind := range object.Kinds() {
		if kind.GVK == meta.GroupVersionKind() {
			obj := kind.New()
			if err := json.Unmarshal(text, obj); err != nil {
				t.Fatalf("%v in\n%s", err, manifest)
			}
			return obj
		}
	}
	t.Fatalf("no kind %s", meta.GroupVersionKind())
	return nil
}

func collection(t testing.TB, obj object.Object) registry.Ref {
	t.Helper()
	kind, err := object.KindOfObject(obj)
	if err != nil {
		t.Fatal(err)
	}
	ref := registry.Ref{Resource: kind.GVR}
	if kind.Namespaced {
		ref.Namespace = obj.GetNamespace()
		if ref.Namespace == "" {
			ref.Namespace = "default"
		}
	}
	return ref
}

func (m *master) make(t testing.TB, manifest string) object.Object {
	t.Helper()
	obj, err := m.try(t, admin, manifest)
	if err != nil {
		t.Fatalf("%v: %s", err, manifest)
	}
	return obj
}

func (m *master) try(t testing.TB, caller registry.Caller, manifest string) (object.Object, error) {
	t.Helper()
	obj := parse(t, manifest)
	return m.Create(t.Context(), caller, collection(t, obj), obj, registry.WriteOptions{})
}

const plainPod = `{apiVersion: v1, kind: Pod, metadata: {name: NAME}, spec: {containers: [{name: c, image: "i:1"}]}}`

// podWith is a pod whose spec has more fields.
func podWith(fields string) string {
	return `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {` + fields + `, containers: [{name: c, image: "i:1"}]}}`
}

func containers(list string) string {
	return `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [` + list + `]}}`
}

// TestAdmission makes an object in a cluster that holds others, and looks at what comes of it.
func TestAdmission(t *testing.T) {
	const (
		high       = `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: high}, value: 1000, preemptionPolicy: Never}`
		low        = `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: low}, value: -5, globalDefault: true}`
		sandbox    = `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: sandbox}, handler: s, overhead: {podFixed: {cpu: 100m}}, scheduling: {nodeSelector: {disk: ssd}, tolerations: [{key: sandbox, operator: Exists}]}}`
		slow       = `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: slow}, provisioner: x}`
		fast       = `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fast, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}, provisioner: x}`
		claim      = `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`
		robot      = `{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot}, imagePullSecrets: [{name: pull}]}`
		edge       = `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: edge, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}, spec: {controller: e.example/c}}`
		edge2      = `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: edge2, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}, spec: {controller: e.example/c}}`
		ingress    = `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}`
		defaults   = `{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container, defaultRequest: {cpu: 100m}, default: {cpu: 200m, memory: 64Mi}}]}}`
		bounds     = `{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container, min: {cpu: 50m}, max: {cpu: "1"}, default: {cpu: 500m}, defaultRequest: {cpu: 200m}, maxLimitRequestRatio: {cpu: "4"}}, {type: Pod, max: {cpu: "1"}}]}}`
		claimSize  = `{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: PersistentVolumeClaim, min: {storage: 2Gi}, max: {storage: 4Gi}}]}}`
		privileged = `{apiVersion: v1, kind: Namespace, metadata: {name: host, labels: {pod-security.kubernetes.io/enforce: privileged}}}`
		strict     = `{apiVersion: v1, kind: Namespace, metadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: restricted}}}`
	)
	in := func(namespace, manifest string) string {
		return strings.Replace(manifest, "metadata: {", "metadata: {namespace: "+namespace+", ", 1)
	}
	node1 := registry.Caller{User: "system:node:node-1", Groups: []string{"system:nodes"}}
	master1 := registry.Caller{User: "system:node:master-1", Groups: []string{"system:nodes"}}
	node := func(name, labels string) string {
		return `{apiVersion: v1, kind: Node, metadata: {name: ` + name + `, labels: {` + labels + `}}}`
	}
	mirror := func(fields string) string {
		return `{apiVersion: v1, kind: Pod, metadata: {name: m, annotations: {kubernetes.io/config.mirror: x}}, spec: {` + fields + ` containers: [{name: c, image: "i:1"}]}}`
	}
	for _, test := range []struct {
		name    string
		cluster []string
		as      registry.Caller
		object  string
		// want are JSON values by path, refused a part of the error; one of them is empty.
		want    map[string]string
		refused string
	}{
		{name: "default service account", object: podWith(`hostname: a`), want: map[string]string{"spec.serviceAccountName": `"default"`, "spec.serviceAccount": `"default"`}},
		{name: "pull secrets of the account", cluster: []string{robot}, object: podWith(`serviceAccountName: robot`), want: map[string]string{"spec.imagePullSecrets": `[{"name":"pull"}]`}},
		{name: "own pull secrets prevail", cluster: []string{robot}, object: podWith(`serviceAccountName: robot, imagePullSecrets: [{name: own}]`), want: map[string]string{"spec.imagePullSecrets": `[{"name":"own"}]`}},
		{name: "token", object: podWith(`hostname: a`), want: map[string]string{
			"spec.containers.0.volumeMounts.0.mountPath":                      `"/var/run/secrets/kubernetes.io/serviceaccount"`,
			"spec.containers.0.volumeMounts.0.readOnly":                       `true`,
			"spec.volumes.0.projected.sources.0.serviceAccountToken":          `{"expirationSeconds":3607,"path":"token"}`,
			"spec.volumes.0.projected.sources.1.configMap.name":               `"kube-root-ca.crt"`,
			"spec.volumes.0.projected.sources.2.downwardAPI.items.0.fieldRef": `{"apiVersion":"v1","fieldPath":"metadata.namespace"}`,
		}},
		{name: "no token wanted by the pod", object: podWith(`automountServiceAccountToken: false`), want: map[string]string{"spec.volumes": ``}},
		{name: "no token wanted by the account", cluster: []string{`{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot}, automountServiceAccountToken: false}`}, object: podWith(`serviceAccountName: robot`), want: map[string]string{"spec.volumes": ``}},
		{name: "token of one's own", object: containers(`{name: c, image: "i:1", volumeMounts: [{name: v, mountPath: /var/run/secrets/kubernetes.io/serviceaccount/}]}], volumes: [{name: v, emptyDir: {}}`), want: map[string]string{"spec.volumes.1": ``}},
		{name: "account that is not there", object: podWith(`serviceAccountName: ghost`), refused: `pods "p" is forbidden: error looking up service account default/ghost: serviceaccount "ghost" not found`},

		{name: "no priority class", object: podWith(`hostname: a`), want: map[string]string{"spec.priority": `0`, "spec.preemptionPolicy": `"PreemptLowerPriority"`}},
		{name: "priority class", cluster: []string{high}, object: podWith(`priorityClassName: high`), want: map[string]string{"spec.priority": `1000`, "spec.preemptionPolicy": `"Never"`}},
		{name: "default priority class", cluster: []string{high, low}, object: podWith(`hostname: a`), want: map[string]string{"spec.priority": `-5`, "spec.priorityClassName": `"low"`}},
		{name: "priority class that is not there", object: podWith(`priorityClassName: ghost`), refused: "no PriorityClass with name ghost was found"},
		{name: "priority by number", cluster: []string{high}, object: podWith(`priorityClassName: high, priority: 7`), refused: "the integer value of priority (7) must not be provided in pod spec"},
		{name: "preemption of one's own", cluster: []string{high}, object: podWith(`priorityClassName: high, preemptionPolicy: PreemptLowerPriority`), refused: "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided"},
		{name: "second default priority class", cluster: []string{low}, object: strings.Replace(low, "name: low", "name: other", 1), refused: "PriorityClass low is already marked as default. Only one default can exist"},

		{name: "runtime class", cluster: []string{sandbox}, object: podWith(`runtimeClassName: sandbox, nodeSelector: {zone: a}`), want: map[string]string{"spec.overhead": `{"cpu":"100m"}`, "spec.nodeSelector": `{"disk":"ssd","zone":"a"}`, "spec.tolerations.0.key": `"node.kubernetes.io/not-ready"`, "spec.tolerations.2.key": `"sandbox"`}},
		{name: "runtime class that is not there", object: podWith(`runtimeClassName: ghost`), refused: `pod rejected: RuntimeClass "ghost" not found`},
		{name: "other overhead", cluster: []string{sandbox}, object: podWith(`runtimeClassName: sandbox, overhead: {cpu: 5m}`), refused: "Pod's Overhead doesn't match RuntimeClass's defined Overhead"},
		{name: "overhead of one's own", object: podWith(`overhead: {cpu: 5m}`), refused: "Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{name: "conflicting selector", cluster: []string{sandbox}, object: podWith(`runtimeClassName: sandbox, nodeSelector: {disk: hdd}`), refused: "conflict: node selector disk"},

		{name: "default storage class", cluster: []string{slow, fast}, object: claim, want: map[string]string{"spec.storageClassName": `"fast"`}},
		{name: "no default storage class", cluster: []string{slow}, object: claim, want: map[string]string{"spec.storageClassName": ``}},
		{name: "no storage class wanted", cluster: []string{fast}, object: strings.Replace(claim, "spec: {", `spec: {storageClassName: "", `, 1), want: map[string]string{"spec.storageClassName": `""`}},
		{name: "default ingress class", cluster: []string{edge}, object: ingress, want: map[string]string{"spec.ingressClassName": `"edge"`}},
		{name: "two default ingress classes", cluster: []string{edge, edge2}, object: ingress, refused: "2 default IngressClasses were found, only 1 allowed"},

		{name: "limits by default", cluster: []string{defaults}, object: podWith(`hostname: a`), want: map[string]string{
			"spec.containers.0.resources": `{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}}`,
			"status.qosClass":             `"Burstable"`,
			"metadata.annotations":        `{"kubernetes.io/limit-ranger":"LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"}`,
		}},
		{name: "what is said stays", cluster: []string{defaults}, object: containers(`{name: c, image: "i:1", resources: {requests: {cpu: 1m}, limits: {cpu: 2m, memory: 1Mi}}}`), want: map[string]string{
			"spec.containers.0.resources": `{"limits":{"cpu":"2m","memory":"1Mi"},"requests":{"cpu":"1m","memory":"1Mi"}}`,
		}},
		{name: "too little and too much", cluster: []string{bounds}, object: containers(`{name: a, image: "i:1", resources: {requests: {cpu: 10m}, limits: {cpu: 20m}}}, {name: b, image: "i:1", resources: {requests: {cpu: "2"}, limits: {cpu: "2"}}}`), refused: "minimum cpu usage per Container is 50m, but request is 10m, maximum cpu usage per Container is 1, but limit is 2, maximum cpu usage per Pod is 1, but limit is 2020m"},
		{name: "too great a ratio", cluster: []string{bounds}, object: containers(`{name: a, image: "i:1", resources: {requests: {cpu: 100m}, limits: {cpu: 900m}}}`), refused: "cpu max limit to request ratio per Container is 4, but provided ratio is 9"},
		{name: "claim too small", cluster: []string{claimSize}, object: claim, refused: "minimum storage usage per PersistentVolumeClaim is 2Gi, but request is 1Gi"},
		{name: "claim too large", cluster: []string{claimSize}, object: strings.Replace(claim, "1Gi", "8Gi", 1), refused: "maximum storage usage per PersistentVolumeClaim is 4Gi, but request is 8Gi"},

		{name: "host network", object: podWith(`hostNetwork: true`), refused: `violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`},
		{name: "host path", object: podWith(`volumes: [{name: v, hostPath: {path: /}}]`), refused: `hostPath volumes (volume "v")`},
		{name: "host network where it is allowed", cluster: []string{privileged}, object: in("host", podWith(`hostNetwork: true`)), want: map[string]string{"spec.hostNetwork": `true`}},
		{name: "host network in kube-system", cluster: []string{`{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}`}, object: in("kube-system", podWith(`hostNetwork: true`)), want: map[string]string{"spec.hostNetwork": `true`}},
		{name: "restricted", cluster: []string{strict}, object: in("strict", podWith(`hostname: a`)), refused: `violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false`},
		{name: "level that is none", object: `{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {pod-security.kubernetes.io/enforce: tight}}}`, refused: `metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "tight"`},

		{name: "own node", as: node1, object: node("node-1", `kubernetes.io/hostname: node-1, disk: ssd, topology.kubernetes.io/zone: a`), want: map[string]string{"metadata.labels.disk": `"ssd"`}},
		{name: "another's node", as: node1, object: node("node-2", ``), refused: `node "node-1" is not allowed to modify node "node-2"`},
		{name: "label that keeps nodes apart", as: node1, object: node("node-1", `node-restriction.kubernetes.io/pci: "yes"`), refused: "is not allowed to modify labels: node-restriction.kubernetes.io/pci"},
		{name: "role of its own choice", as: node1, object: node("node-1", `node-role.kubernetes.io/control-plane: ""`), refused: "is not allowed to modify labels: node-role.kubernetes.io/control-plane"},
		{name: "master's role", as: master1, object: node("master-1", `node-role.kubernetes.io/control-plane: ""`), want: map[string]string{"metadata.name": `"master-1"`}},
		{name: "pod made by a node", as: node1, object: podWith(`nodeName: node-1`), refused: `node "node-1" can only create mirror pods`},
		{name: "mirror pod", as: node1, object: mirror(`nodeName: node-1,`), want: map[string]string{"spec.serviceAccountName": ``}},
		{name: "mirror pod of another node", as: node1, object: mirror(`nodeName: node-2,`), refused: `node "node-1" can only create pods with spec.nodeName set to itself`},
		{name: "mirror pod with a secret", as: node1, object: mirror(`nodeName: node-1, volumes: [{name: v, secret: {secretName: s}}],`), refused: "can not create pods that reference secret"},
		{name: "mirror pod with an account", as: node1, object: mirror(`nodeName: node-1, serviceAccountName: default,`), refused: "a mirror pod may not reference service accounts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := admitting(t)
			for _, manifest := range test.cluster {
				m.make(t, manifest)
			}
			caller := test.as
			if caller.User == "" {
				caller = admin
			}
			obj, err := m.try(t, caller, test.object)
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Fatalf("error %v\nwant %s", err, test.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range test.want {
				if got := valueAt(t, obj, path); got != want {
					t.Errorf("%s = %s, want %s", path, got, want)
				}
			}
		})
	}
}

// valueAt returns a value of an object as JSON; empty if there is none.
func valueAt(t testing.TB, obj any, path string) string {
	t.Helper()
	text, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	for key := range strings.SplitSeq(path, ".") {
		switch node := value.(type) {
		case map[string]any:
			value = node[key]
		case []any:
			var n int
			if _, err := fmt.Sscan(key, &n); err != nil || n >= len(node) {
				return ""
			}
			value = node[n]
		default:
			return ""
		}
	}
	if value == nil {
		return ""
	}
	out, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestNamespaceBeginsWithItsServiceAccount(t *testing.T) {
	m := admitting(t)
	m.make(t, `{apiVersion: v1, kind: Namespace, metadata: {name: fresh}}`)
	get[*corev1.ServiceAccount](t, m, at("serviceaccounts", "fresh", "default"))
	if root := get[*corev1.ConfigMap](t, m, at("configmaps", "fresh", "kube-root-ca.crt")); root.Data["ca.crt"] != "a certificate" {
		t.Errorf("the CA of the namespace is %v", root.Data)
	}
	m.make(t, strings.Replace(strings.Replace(plainPod, "metadata: {", "metadata: {namespace: fresh, ", 1), "NAME", "first", 1))

	apply := []byte(`{apiVersion: v1, kind: Namespace, metadata: {name: applied}}`)
	if _, err := m.Patch(t.Context(), admin, at("namespaces", "", "applied"), types.ApplyPatchType, apply, registry.WriteOptions{FieldManager: "test"}); err != nil {
		t.Fatal(err)
	}
	get[*corev1.ServiceAccount](t, m, at("serviceaccounts", "applied", "default"))

	results, err := m.Transact(t.Context(), admin, []registry.Operation{
		{Verb: registry.VerbCreate, Ref: at("namespaces", "", ""), Object: parse(t, `{apiVersion: v1, kind: Namespace, metadata: {name: one}}`)},
		{Verb: registry.VerbCreate, Ref: at("namespaces", "", ""), Object: parse(t, `{apiVersion: v1, kind: Namespace, metadata: {name: two}}`)},
	}, false)
	if err != nil || len(results) != 2 {
		t.Fatalf("%v, %v", results, err)
	}
	get[*corev1.ServiceAccount](t, m, at("serviceaccounts", "two", "default"))
}

func TestWarnings(t *testing.T) {
	m := admitting(t)
	op := func(verb registry.Verb, manifest string) registry.OperationResult {
		obj := parse(t, manifest)
		ref := collection(t, obj)
		if verb == registry.VerbUpdate {
			ref.Name = obj.GetName()
		}
		result, err := m.Do(t.Context(), admin, registry.Operation{Verb: verb, Ref: ref, Object: obj})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	const deployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {FIELDS containers: [{name: c, image: "i:1"}]}}}}`
	if got := op(registry.VerbCreate, strings.Replace(deployment, "FIELDS", "", 1)).Warnings; len(got) > 0 {
		t.Errorf("warnings of a harmless deployment: %q", got)
	}
	got := op(registry.VerbUpdate, strings.Replace(deployment, "FIELDS", "hostPID: true,", 1)).Warnings
	if want := []string{`would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)`}; !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
	m.make(t, strings.Replace(plainPod, "NAME", "lax", 1))
	got = op(registry.VerbUpdate, `{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {pod-security.kubernetes.io/enforce: restricted}}}`).Warnings
	if len(got) != 2 || !strings.Contains(got[0], `existing pods in namespace "default" violate the new PodSecurity enforce level "restricted:latest"`) || !strings.HasPrefix(got[1], "lax: ") {
		t.Errorf("warnings of a stricter level: %q", got)
	}
}

func TestNodeKeepsItsLabelsAndTaints(t *testing.T) {
	m := admitting(t)
	m.make(t, `{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {node-restriction.kubernetes.io/pci: "yes", disk: ssd}}, spec: {taints: [{key: keep, effect: NoSchedule}]}}`)
	self := registry.Caller{User: "system:node:node-1", Groups: []string{"system:nodes"}}
	for patch, refused := range map[string]string{
		`{"metadata":{"labels":{"disk":"hdd"}}}`:                                                    "",
		`{"metadata":{"labels":{"node-restriction.kubernetes.io/pci":null}}}`:                       "is not allowed to modify labels: node-restriction.kubernetes.io/pci",
		`{"metadata":{"labels":{"node-restriction.kubernetes.io/pci":"no"}}}`:                       "is not allowed to modify labels",
		`{"spec":{"taints":null}}`:                                                                  `node "node-1" is not allowed to modify taints`,
		`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"u"}]}}`: "is not allowed to modify ownerReferences",
	} {
		_, err := m.Patch(t.Context(), self, at("nodes", "", "node-1"), types.MergePatchType, []byte(patch), registry.WriteOptions{})
		if refused == "" && err != nil || refused != "" && (err == nil || !strings.Contains(err.Error(), refused)) {
			t.Errorf("%s: %v, want %q", patch, err, refused)
		}
	}
}

func TestQuota(t *testing.T) {
	m := admitting(t)
	m.make(t, strings.Replace(plainPod, "NAME", "before", 1)) // what is there counts
	m.make(t, `{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: "3", services.nodeports: "1", count/configmaps: "2", requests.storage: 2Gi}}}`)
	refused := func(manifest, want string) {
		t.Helper()
		if _, err := m.try(t, admin, manifest); err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", manifest, err, want)
		}
	}
	m.make(t, strings.Replace(plainPod, "NAME", "a", 1))
	m.make(t, strings.Replace(plainPod, "NAME", "b", 1))
	refused(strings.Replace(plainPod, "NAME", "c", 1), `pods "c" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3`)

	// A pod that has ended frees its place.
	ended := get[*corev1.Pod](t, m, at("pods", "default", "a"))
	ended.Status.Phase = corev1.PodSucceeded
	must[*corev1.Pod](t)(m.Update(t.Context(), admin, at("pods", "default", "a", "status"), ended, none))
	m.make(t, strings.Replace(plainPod, "NAME", "c", 1))
	refused(strings.Replace(plainPod, "NAME", "d", 1), "exceeded quota: q")
	zero := int64(0)
	if _, _, err := m.Delete(t.Context(), admin, at("pods", "default", "b"), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	// A dry run is refused alike, and takes nothing.
	for range 2 {
		obj := parse(t, strings.Replace(plainPod, "NAME", "dry", 1))
		if _, err := m.Create(t.Context(), admin, collection(t, obj), obj, registry.WriteOptions{DryRun: true}); err != nil {
			t.Fatal(err)
		}
	}
	m.make(t, strings.Replace(plainPod, "NAME", "d", 1))

	const node = `{apiVersion: v1, kind: Service, metadata: {name: NAME}, spec: {type: TYPE, ports: [{port: 80}]}}`
	service := func(name, kind string) string {
		return strings.Replace(strings.Replace(node, "NAME", name, 1), "TYPE", kind, 1)
	}
	m.make(t, service("one", "NodePort"))
	refused(service("two", "NodePort"), "requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1")
	m.make(t, service("two", "ClusterIP"))
	patch := []byte(`{"spec":{"type":"NodePort"}}`)
	if _, err := m.Patch(t.Context(), admin, at("services", "default", "two"), types.MergePatchType, patch, none); err == nil || !strings.Contains(err.Error(), "exceeded quota: q") {
		t.Errorf("an update over the quota: %v", err)
	}

	const claim = `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: NAME}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: SIZE}}}}`
	volume := func(name, size string) string {
		return strings.Replace(strings.Replace(claim, "NAME", name, 1), "SIZE", size, 1)
	}
	m.make(t, volume("x", "1536Mi"))
	refused(volume("other", "1Gi"), "requested: requests.storage=1Gi, used: requests.storage=1536Mi, limited: requests.storage=2Gi")

	m.make(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: one}}`)
	refused(`{apiVersion: v1, kind: ConfigMap, metadata: {name: two}}`, "requested: count/configmaps=1")
	if _, err := m.Transact(t.Context(), admin, []registry.Operation{
		{Verb: registry.VerbDelete, Ref: at("configmaps", "default", "one")},
		{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: parse(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: two}}`)},
	}, false); err == nil || !strings.Contains(err.Error(), "exceeded quota") {
		t.Errorf("what a transaction frees may be used after it, not in it: %v", err)
	}
}

func TestQuotaOfComputeAndScopes(t *testing.T) {
	m := admitting(t)
	m.make(t, `{apiVersion: v1, kind: ResourceQuota, metadata: {name: cpu}, spec: {hard: {requests.cpu: "1", limits.memory: 1Gi}}}`)
	sized := func(name, cpu, memory string) string {
		return `{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {containers: [{name: c, image: "i:1", resources: {requests: {cpu: ` + cpu + `}, limits: {memory: ` + memory + `}}}]}}`
	}
	if _, err := m.try(t, admin, strings.Replace(plainPod, "NAME", "open", 1)); err == nil || !strings.Contains(err.Error(), "failed quota: cpu: must specify limits.memory for: c,requests.cpu for: c") {
		t.Errorf("a pod that asks for nothing: %v", err)
	}
	m.make(t, sized("a", "600m", "512Mi"))
	if _, err := m.try(t, admin, sized("b", "600m", "768Mi")); err == nil || !strings.Contains(err.Error(), "exceeded quota: cpu, requested: limits.memory=768Mi,requests.cpu=600m, used: limits.memory=512Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1") {
		t.Errorf("too much: %v", err)
	}
	m.make(t, sized("c", "400m", "512Mi"))

	m.make(t, `{apiVersion: v1, kind: Namespace, metadata: {name: scoped}}`)
	m.make(t, `{apiVersion: v1, kind: ResourceQuota, metadata: {name: q, namespace: scoped}, spec: {hard: {pods: "1"}, scopes: [BestEffort]}}`)
	in := func(manifest string) string {
		return strings.Replace(manifest, "metadata: {", "metadata: {namespace: scoped, ", 1)
	}
	m.make(t, in(sized("a", "600m", "512Mi")))
	m.make(t, in(strings.Replace(plainPod, "NAME", "one", 1)))
	if _, err := m.try(t, admin, in(strings.Replace(plainPod, "NAME", "two", 1))); err == nil {
		t.Error("a second pod of the scope was let in")
	}
	m.make(t, in(sized("b", "600m", "512Mi")))
}

// TestQuotaIsExact makes many objects at once: as many as the quota allows are made.
func TestQuotaIsExact(t *testing.T) {
	m := admitting(t)
	const allowed, writers, each = 37, 16, 20
	m.make(t, fmt.Sprintf(`{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {count/configmaps: "%d"}}}`, allowed+1)) // and the CA of the namespace
	var made, refused atomic.Int64
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			for i := range each {
				c := configMap(fmt.Sprintf("c-%d-%d", w, i))
				switch _, err := m.Create(t.Context(), admin, at("configmaps", "default", ""), c, none); {
				case err == nil:
					made.Add(1)
				case apierrors.IsForbidden(err):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if made.Load() != allowed || refused.Load() != writers*each-allowed {
		t.Errorf("%d made and %d refused, want %d made", made.Load(), refused.Load(), allowed)
	}
}

// TestQuotaIsExactWithinABatch has one batch ask for more than there is.
func TestQuotaIsExactWithinABatch(t *testing.T) {
	m := admitting(t)
	m.make(t, `{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {count/configmaps: "8"}}}`) // and the CA of the namespace
	var ops []registry.Operation
	for i := range 50 {
		ops = append(ops, registry.Operation{Verb: registry.VerbCreate, Ref: at("configmaps", "default", ""), Object: configMap(fmt.Sprintf("c-%d", i))})
	}
	results, err := m.Transact(t.Context(), admin, ops, true)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, result := range results {
		if result.Err == nil {
			made++
		} else if !apierrors.IsForbidden(result.Err) {
			t.Error(result.Err)
		}
	}
	if made != 7 {
		t.Errorf("%d made, want 7", made)
	}
}

func TestQuotaStatus(t *testing.T) {
	m := admitting(t)
	m.group.Go(func(ctx context.Context) error {
		return registry.NewQuotaStatus(m.Engine, clock.RealClock{}, zap.NewNop()).Run(ctx)
	})
	m.make(t, `{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: "3", requests.cpu: "1"}}}`)
	shows := func(used string) {
		t.Helper()
		eventually(t, "the status shows "+used, func() bool {
			quota := get[*corev1.ResourceQuota](t, m, at("resourcequotas", "default", "q"))
			return valueAt(t, quota, "status.used") == used && valueAt(t, quota, "status.hard") == `{"pods":"3","requests.cpu":"1"}`
		})
	}
	shows(`{"pods":"0","requests.cpu":"0"}`)
	m.make(t, containers(`{name: a, image: "i:1", resources: {requests: {cpu: 250m}}}`))
	shows(`{"pods":"1","requests.cpu":"250m"}`)
	quota := get[*corev1.ResourceQuota](t, m, at("resourcequotas", "default", "q"))
	delete(quota.Spec.Hard, "requests.cpu")
	must[*corev1.ResourceQuota](t)(m.Update(t.Context(), admin, at("resourcequotas", "default", "q"), quota, none))
	eventually(t, "the status follows the spec", func() bool {
		quota := get[*corev1.ResourceQuota](t, m, at("resourcequotas", "default", "q"))
		return valueAt(t, quota, "status") == `{"hard":{"pods":"3"},"used":{"pods":"1"}}`
	})
}

// TestTokensOfNodes asks for tokens as a kubelet does: it gets those of its own pods.
func TestTokensOfNodes(t *testing.T) {
	m := admitting(t)
	self := registry.Caller{User: "system:node:node-1", Groups: []string{"system:nodes"}}
	m.make(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: robot}}`)
	here := m.make(t, podWith(`nodeName: node-1`))
	there := m.make(t, strings.Replace(podWith(`nodeName: node-2`), "name: p", "name: q", 1))
	bound := func(account, kind, name string, uid types.UID) error {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: uid}}}
		_, err := m.Create(t.Context(), self, at("serviceaccounts", "default", account, "token"), request, none)
		return err
	}
	for _, test := range []struct {
		account, kind, name string
		uid                 types.UID
		want                string
	}{
		{"default", "Pod", "p", here.GetUID(), "this master issues no tokens"}, // that is: it would be issued
		{"default", "Secret", "p", here.GetUID(), "not bound to a pod"},
		{"default", "Pod", "p", "", "without a uid"},
		{"default", "Pod", "ghost", "u", `pod "ghost" was not found`},
		{"default", "Pod", "p", there.GetUID(), "does not match the UID in record"},
		{"default", "Pod", "q", there.GetUID(), "scheduled on a different node"},
		{"robot", "Pod", "p", here.GetUID(), `of service account "robot" for a pod of "default"`},
	} {
		if err := bound(test.account, test.kind, test.name, test.uid); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
