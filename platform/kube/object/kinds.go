package object

import (
	"fmt"
	"reflect"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
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
			kind[eventsv1.Event]("events.k8s.io", "v1", "Event", "events", true, func() runtime.Object { return &eventsv1.EventList{} }),
			kind[rbacv1.ClusterRoleBinding](rbacv1.GroupName, "v1", "ClusterRoleBinding", "clusterrolebindings", false, func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} }),
			kind[rbacv1.ClusterRole](rbacv1.GroupName, "v1", "ClusterRole", "clusterroles", false, func() runtime.Object { return &rbacv1.ClusterRoleList{} }),
			kind[rbacv1.RoleBinding](rbacv1.GroupName, "v1", "RoleBinding", "rolebindings", true, func() runtime.Object { return &rbacv1.RoleBindingList{} }),
			kind[rbacv1.Role](rbacv1.GroupName, "v1", "Role", "roles", true, func() runtime.Object { return &rbacv1.RoleList{} }),
			// Questions: answered when created, never stored.
			kind[authenticationv1.SelfSubjectReview](authenticationv1.GroupName, "v1", "SelfSubjectReview", "selfsubjectreviews", false, nil),
			kind[authenticationv1.TokenReview](authenticationv1.GroupName, "v1", "TokenReview", "tokenreviews", false, nil),
			kind[authorizationv1.LocalSubjectAccessReview](authorizationv1.GroupName, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", true, nil),
			kind[authorizationv1.SelfSubjectAccessReview](authorizationv1.GroupName, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", false, nil),
			kind[authorizationv1.SelfSubjectRulesReview](authorizationv1.GroupName, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", false, nil),
			kind[authorizationv1.SubjectAccessReview](authorizationv1.GroupName, "v1", "SubjectAccessReview", "subjectaccessreviews", false, nil),
			// Bodies of subresources: never stored, no collection.
			kind[authenticationv1.TokenRequest](authenticationv1.GroupName, "v1", "TokenRequest", "tokenrequests", true, nil),
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
		t.byGR[k.GVR.GroupResource()] = k
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

// KindForResource finds a kind by group and resource.
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
