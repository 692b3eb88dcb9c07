package object

import (
	"fmt"
	"reflect"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kind describes one kind of object.
type Kind struct {
	GVK schema.GroupVersionKind
	GVR schema.GroupVersionResource
	// Namespaced kinds live in a namespace, others in the cluster.
	Namespaced bool
	// New returns an empty object; NewList an empty list of them (nil for kinds that
	// only travel through a subresource).
	New     func() Object
	NewList func() runtime.Object
	// View is true for kinds that show the objects of another kind of the table in another
	// version. Whoever goes over all objects leaves them out.
	View bool

	typeURL string
	goType  reflect.Type
}

// kind builds one row of the table. The protobuf package of a group is its first
// label below k8s.io.api, "core" for the core group.
func kind[T any, P interface {
	*T
	Object
}](group, version, kindName, resource string, namespaced bool, newList func() runtime.Object) Kind {
	pkg := "core"
	if group != "" {
		pkg, _, _ = strings.Cut(group, ".")
	}
	return Kind{
		GVK:        schema.GroupVersionKind{Group: group, Version: version, Kind: kindName},
		GVR:        schema.GroupVersionResource{Group: group, Version: version, Resource: resource},
		Namespaced: namespaced,
		New:        func() Object { return P(new(T)) },
		NewList:    newList,
		typeURL:    typeURLPrefix + "k8s.io.api." + pkg + "." + version + "." + kindName,
		goType:     reflect.TypeFor[P](),
	}
}

// view marks a row that shows the objects of another.
func view(k Kind) Kind {
	k.View = true
	return k
}

type table struct {
	kinds  []Kind
	byURL  map[string]Kind
	byGVK  map[schema.GroupVersionKind]Kind
	byGR   map[schema.GroupResource]Kind
	byType map[reflect.Type]Kind
}

// kindTable is built once, on first use.
var kindTable = sync.OnceValue(func() *table {
	t := &table{
		kinds: []Kind{
			kind[corev1.Namespace]("", "v1", "Namespace", "namespaces", false, func() runtime.Object { return &corev1.NamespaceList{} }),
			kind[corev1.Node]("", "v1", "Node", "nodes", false, func() runtime.Object { return &corev1.NodeList{} }),
			kind[corev1.Pod]("", "v1", "Pod", "pods", true, func() runtime.Object { return &corev1.PodList{} }),
			kind[corev1.Service]("", "v1", "Service", "services", true, func() runtime.Object { return &corev1.ServiceList{} }),
			kind[corev1.ConfigMap]("", "v1", "ConfigMap", "configmaps", true, func() runtime.Object { return &corev1.ConfigMapList{} }),
			kind[corev1.Secret]("", "v1", "Secret", "secrets", true, func() runtime.Object { return &corev1.SecretList{} }),
			kind[corev1.ServiceAccount]("", "v1", "ServiceAccount", "serviceaccounts", true, func() runtime.Object { return &corev1.ServiceAccountList{} }),
			kind[corev1.Event]("", "v1", "Event", "events", true, func() runtime.Object { return &corev1.EventList{} }),
			kind[appsv1.Deployment]("apps", "v1", "Deployment", "deployments", true, func() runtime.Object { return &appsv1.DeploymentList{} }),
			kind[appsv1.ReplicaSet]("apps", "v1", "ReplicaSet", "replicasets", true, func() runtime.Object { return &appsv1.ReplicaSetList{} }),
			kind[coordinationv1.Lease]("coordination.k8s.io", "v1", "Lease", "leases", true, func() runtime.Object { return &coordinationv1.LeaseList{} }),
			kind[discoveryv1.EndpointSlice]("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true, func() runtime.Object { return &discoveryv1.EndpointSliceList{} }),
			view(kind[eventsv1.Event]("events.k8s.io", "v1", "Event", "events", true, func() runtime.Object { return &eventsv1.EventList{} })),
			kind[corev1.PodTemplate]("", "v1", "PodTemplate", "podtemplates", true, func() runtime.Object { return &corev1.PodTemplateList{} }),
			kind[corev1.ReplicationController]("", "v1", "ReplicationController", "replicationcontrollers", true, func() runtime.Object { return &corev1.ReplicationControllerList{} }),
			kind[appsv1.ControllerRevision]("apps", "v1", "ControllerRevision", "controllerrevisions", true, func() runtime.Object { return &appsv1.ControllerRevisionList{} }),
			kind[appsv1.DaemonSet]("apps", "v1", "DaemonSet", "daemonsets", true, func() runtime.Object { return &appsv1.DaemonSetList{} }),
			kind[appsv1.StatefulSet]("apps", "v1", "StatefulSet", "statefulsets", true, func() runtime.Object { return &appsv1.StatefulSetList{} }),
			kind[autoscalingv2.HorizontalPodAutoscaler]("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true, func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} }),
			view(kind[autoscalingv1.HorizontalPodAutoscaler]("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true, func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} })),
			kind[batchv1.CronJob]("batch", "v1", "CronJob", "cronjobs", true, func() runtime.Object { return &batchv1.CronJobList{} }),
			kind[batchv1.Job]("batch", "v1", "Job", "jobs", true, func() runtime.Object { return &batchv1.JobList{} }),
			kind[nodev1.RuntimeClass]("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", false, func() runtime.Object { return &nodev1.RuntimeClassList{} }),
			kind[policyv1.PodDisruptionBudget]("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true, func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} }),
			kind[schedulingv1.PriorityClass]("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", false, func() runtime.Object { return &schedulingv1.PriorityClassList{} }),
			// Bodies of subresources: never stored, no collection.
			kind[corev1.Binding]("", "v1", "Binding", "bindings", true, nil),
			kind[policyv1.Eviction]("policy", "v1", "Eviction", "evictions", true, nil),
			kind[autoscalingv1.Scale]("autoscaling", "v1", "Scale", "scales", true, nil),
		},
		byURL:  map[string]Kind{},
		byGVK:  map[schema.GroupVersionKind]Kind{},
		byGR:   map[schema.GroupResource]Kind{},
		byType: map[reflect.Type]Kind{},
	}
	for _, k := range t.kinds {
		t.byURL[k.typeURL] = k
		t.byGVK[k.GVK] = k
		if _, ok := t.byGR[k.GVR.GroupResource()]; !ok {
			t.byGR[k.GVR.GroupResource()] = k
		}
		t.byType[k.goType] = k
	}
	return t
})

// Kinds lists every kind. The slice is shared: do not change it.
func Kinds() []Kind { return kindTable().kinds }

// KindFor finds a kind by group, version and kind.
func KindFor(gvk schema.GroupVersionKind) (Kind, bool) {
	k, ok := kindTable().byGVK[gvk]
	return k, ok
}

// KindForResource finds a kind by group and resource; of several versions the preferred one,
// which stands first in the table.
func KindForResource(resource schema.GroupResource) (Kind, bool) {
	k, ok := kindTable().byGR[resource]
	return k, ok
}

// KindForTypeURL finds a kind by the type URL of an Any; only the part after the last slash counts.
func KindForTypeURL(url string) (Kind, bool) {
	if k, ok := kindTable().byURL[url]; ok {
		return k, ok
	}
	k, ok := kindTable().byURL[typeURLPrefix+url[strings.LastIndexByte(url, '/')+1:]]
	return k, ok
}

// KindOfObject returns the kind of an object by its Go type. obj may be a nil pointer.
func KindOfObject(obj Object) (Kind, error) {
	if k, ok := kindTable().byType[reflect.TypeOf(obj)]; ok {
		return k, nil
	}
	return Kind{}, fmt.Errorf("no kind for Go type %T", obj)
}
