package object

import (
	"fmt"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"reflect"
	"strings"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
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

// in names the protobuf package of a kind that is not of k8s.io/api.
func in(pkg string, k Kind) Kind {
	k.typeURL = typeURLPrefix + pkg + "." + k.GVK.Kind
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
			kind[networkingv1.Ingress]("networking.k8s.io", "v1", "Ingress", "ingresses", true, func() runtime.Object { return &networkingv1.IngressList{} }),
			kind[networkingv1.IngressClass]("networking.k8s.io", "v1", "IngressClass", "ingressclasses", false, func() runtime.Object { return &networkingv1.IngressClassList{} }),
			kind[storagev1.StorageClass]("storage.k8s.io", "v1", "StorageClass", "storageclasses", false, func() runtime.Object { return &storagev1.StorageClassList{} }),
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
			kind[corev1.PersistentVolume]("", "v1", "PersistentVolume", "persistentvolumes", false, func() runtime.Object { return &corev1.PersistentVolumeList{} }),
			kind[corev1.PersistentVolumeClaim]("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true, func() runtime.Object { return &corev1.PersistentVolumeClaimList{} }),
			kind[corev1.LimitRange]("", "v1", "LimitRange", "limitranges", true, func() runtime.Object { return &corev1.LimitRangeList{} }),
			kind[corev1.ResourceQuota]("", "v1", "ResourceQuota", "resourcequotas", true, func() runtime.Object { return &corev1.ResourceQuotaList{} }),
			kind[corev1.Endpoints]("", "v1", "Endpoints", "endpoints", true, func() runtime.Object { return &corev1.EndpointsList{} }), //nolint:staticcheck // clients still have it
			kind[admissionregistrationv1.MutatingAdmissionPolicy]("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", false, func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyList{} }),
			kind[admissionregistrationv1.MutatingAdmissionPolicyBinding]("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", false, func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyBindingList{} }),
			kind[admissionregistrationv1.MutatingWebhookConfiguration]("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", false, func() runtime.Object { return &admissionregistrationv1.MutatingWebhookConfigurationList{} }),
			kind[admissionregistrationv1.ValidatingAdmissionPolicy]("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", false, func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyList{} }),
			kind[admissionregistrationv1.ValidatingAdmissionPolicyBinding]("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", false, func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyBindingList{} }),
			kind[admissionregistrationv1.ValidatingWebhookConfiguration]("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", false, func() runtime.Object { return &admissionregistrationv1.ValidatingWebhookConfigurationList{} }),
			kind[certificatesv1.CertificateSigningRequest]("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", false, func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} }),
			kind[flowcontrolv1.FlowSchema]("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", false, func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} }),
			kind[flowcontrolv1.PriorityLevelConfiguration]("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", false, func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} }),
			kind[networkingv1.IPAddress]("networking.k8s.io", "v1", "IPAddress", "ipaddresses", false, func() runtime.Object { return &networkingv1.IPAddressList{} }),
			kind[networkingv1.NetworkPolicy]("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", true, func() runtime.Object { return &networkingv1.NetworkPolicyList{} }),
			kind[networkingv1.ServiceCIDR]("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", false, func() runtime.Object { return &networkingv1.ServiceCIDRList{} }),
			kind[storagev1.CSIDriver]("storage.k8s.io", "v1", "CSIDriver", "csidrivers", false, func() runtime.Object { return &storagev1.CSIDriverList{} }),
			kind[storagev1.CSINode]("storage.k8s.io", "v1", "CSINode", "csinodes", false, func() runtime.Object { return &storagev1.CSINodeList{} }),
			kind[storagev1.CSIStorageCapacity]("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", true, func() runtime.Object { return &storagev1.CSIStorageCapacityList{} }),
			kind[storagev1.VolumeAttachment]("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", false, func() runtime.Object { return &storagev1.VolumeAttachmentList{} }),
			kind[storagev1.VolumeAttributesClass]("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", false, func() runtime.Object { return &storagev1.VolumeAttributesClassList{} }),
			kind[rbacv1.ClusterRoleBinding](rbacv1.GroupName, "v1", "ClusterRoleBinding", "clusterrolebindings", false, func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} }),
			kind[rbacv1.ClusterRole](rbacv1.GroupName, "v1", "ClusterRole", "clusterroles", false, func() runtime.Object { return &rbacv1.ClusterRoleList{} }),
			kind[rbacv1.RoleBinding](rbacv1.GroupName, "v1", "RoleBinding", "rolebindings", true, func() runtime.Object { return &rbacv1.RoleBindingList{} }),
			kind[rbacv1.Role](rbacv1.GroupName, "v1", "Role", "roles", true, func() runtime.Object { return &rbacv1.RoleList{} }),
			in("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1", kind[apiextensionsv1.CustomResourceDefinition](apiextensionsv1.GroupName, "v1", "CustomResourceDefinition", "customresourcedefinitions", false, func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} })),
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
// Of custom objects it tells no group, version and kind: only the object itself does.
func KindForTypeURL(url string) (Kind, bool) {
	if url == customTypeURL || url[strings.LastIndexByte(url, '/')+1:] == customTypeURL[len(typeURLPrefix):] {
		return CustomKind(schema.GroupVersionKind{}, "", false), true
	}
	if k, ok := kindTable().byURL[url]; ok {
		return k, ok
	}
	k, ok := kindTable().byURL[typeURLPrefix+url[strings.LastIndexByte(url, '/')+1:]]
	return k, ok
}

// KindOfObject returns the kind of an object by its Go type. obj may be a nil pointer.
// That of a custom object is what the object says.
func KindOfObject(obj Object) (Kind, error) {
	if custom, ok := obj.(*Custom); ok && custom != nil {
		return CustomKind(custom.GroupVersionKind(), custom.Resource, custom.Namespace != ""), nil
	}
	if k, ok := kindTable().byType[reflect.TypeOf(obj)]; ok {
		return k, nil
	}
	return Kind{}, fmt.Errorf("no kind for Go type %T", obj)
}
