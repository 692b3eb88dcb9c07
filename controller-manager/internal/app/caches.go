package app

import (
	"context"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/controller-manager/internal/controllers/attachdetach"
	"kijabi.dev/controller-manager/internal/controllers/disruption"
	"kijabi.dev/controller-manager/internal/controllers/endpointslice"
	"kijabi.dev/controller-manager/internal/controllers/garbagecollector"
	"kijabi.dev/controller-manager/internal/controllers/horizontalpodautoscaler"
	"kijabi.dev/controller-manager/internal/controllers/job"
	"kijabi.dev/controller-manager/internal/controllers/nodelifecycle"
	"kijabi.dev/controller-manager/internal/controllers/podgc"
	"kijabi.dev/controller-manager/internal/controllers/serviceaccounttoken"
	"kijabi.dev/controller-manager/internal/controllers/serviceaddress"
	"kijabi.dev/controller-manager/internal/history"
	"kijabi.dev/controller-manager/internal/ownership"
	"kijabi.dev/controller-manager/internal/podset"
	"kijabi.dev/controller-manager/internal/projection"
	"kijabi.dev/controller-manager/internal/storage"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// caches are the collections that loops read, one of each kind.
type caches struct {
	// garbage is what the garbage collector looks at: kinds that own or are owned.
	garbage []garbagecollector.Collection
	customs *informer.Customs

	namespaces  *informer.Informer[*corev1.Namespace]
	definitions *informer.Informer[*apiextensionsv1.CustomResourceDefinition]
	nodes       *informer.Informer[*corev1.Node]
	leases      *informer.Informer[*coordinationv1.Lease]
	accounts    *informer.Informer[*corev1.ServiceAccount]
	secrets     *informer.Informer[*corev1.Secret]
	configMaps  *informer.Informer[*corev1.ConfigMap]
	requests    *informer.Informer[*certificatesv1.CertificateSigningRequest]

	services  *informer.Informer[*corev1.Service]
	slices    *informer.Informer[*discoveryv1.EndpointSlice]
	endpoints *informer.Informer[*corev1.Endpoints] //nolint:staticcheck // clients still have it

	pods         *informer.Informer[*corev1.Pod]
	deployments  *informer.Informer[*appsv1.Deployment]
	replicaSets  *informer.Informer[*appsv1.ReplicaSet]
	statefulSets *informer.Informer[*appsv1.StatefulSet]
	daemonSets   *informer.Informer[*appsv1.DaemonSet]
	revisions    *informer.Informer[*appsv1.ControllerRevision]

	replicationControllers *informer.Informer[*corev1.ReplicationController]
	autoscalers            *informer.Informer[*autoscalingv2.HorizontalPodAutoscaler]
	budgets                *informer.Informer[*policyv1.PodDisruptionBudget]
	jobs                   *informer.Informer[*batchv1.Job]
	cronJobs               *informer.Informer[*batchv1.CronJob]

	claims      *informer.Informer[*corev1.PersistentVolumeClaim]
	volumes     *informer.Informer[*corev1.PersistentVolume]
	classes     *informer.Informer[*storagev1.StorageClass]
	drivers     *informer.Informer[*storagev1.CSIDriver]
	attachments *informer.Informer[*storagev1.VolumeAttachment]
}

// gather adds all collections to a set.
func gather(set *informer.Set, api *client.Client, dial func() (*client.Client, func() error, error), log *zap.Logger) *caches {
	c := &caches{}
	c.definitions = collected[*apiextensionsv1.CustomResourceDefinition](c, set, api)
	c.customs = informer.CustomsOf(set, informer.CustomsConfig{Definitions: c.definitions, Dial: dial, Log: log})
	c.namespaces = collected[*corev1.Namespace](c, set, api)
	c.nodes = collected[*corev1.Node](c, set, api)
	c.leases = informer.Of[*coordinationv1.Lease](set)
	c.accounts = collected[*corev1.ServiceAccount](c, set, api)
	c.secrets = collected[*corev1.Secret](c, set, api, informer.Index(serviceaccounttoken.IndexAccount, serviceaccounttoken.Account))
	c.configMaps = collected[*corev1.ConfigMap](c, set, api)
	c.requests = informer.Of[*certificatesv1.CertificateSigningRequest](set)

	c.services = collected[*corev1.Service](c, set, api,
		informer.Index(endpointslice.IndexNamespace, byNamespace[*corev1.Service]),
		informer.Index(serviceaddress.IndexTaken, serviceaddress.Taken))
	c.slices = collected[*discoveryv1.EndpointSlice](c, set, api)
	c.endpoints = collected[*corev1.Endpoints](c, set, api) //nolint:staticcheck // clients still have it

	c.pods = collected[*corev1.Pod](c, set, api,
		informer.Keep(projection.NewPods().Keep),
		informer.Index(endpointslice.IndexNamespace, byNamespace[*corev1.Pod]),
		informer.Index(endpointslice.IndexLabel, endpointslice.Labels),
		informer.Index(podset.IndexOrphans, podset.Orphans),
		informer.Index(job.IndexTracked, job.Tracked),
		informer.Index(podgc.IndexEnded, podgc.Ended),
		informer.Index(storage.IndexPodClaims, storage.PodClaims),
		informer.Index(nodelifecycle.IndexNode, func(pod *corev1.Pod) []string { return []string{pod.Spec.NodeName} }))
	c.deployments = collected[*appsv1.Deployment](c, set, api)
	c.replicaSets = collected[*appsv1.ReplicaSet](c, set, api, informer.Index(ownership.IndexOrphans, ownership.Orphans[*appsv1.ReplicaSet]))
	c.replicationControllers = collected[*corev1.ReplicationController](c, set, api)
	c.statefulSets = collected[*appsv1.StatefulSet](c, set, api)
	c.daemonSets = collected[*appsv1.DaemonSet](c, set, api)
	c.revisions = collected[*appsv1.ControllerRevision](c, set, api, informer.Index(history.IndexOrphans, history.Orphans))
	c.jobs = collected[*batchv1.Job](c, set, api)
	c.cronJobs = collected[*batchv1.CronJob](c, set, api)
	c.autoscalers = collected[*autoscalingv2.HorizontalPodAutoscaler](c, set, api,
		informer.Index(horizontalpodautoscaler.IndexNamespace, byNamespace[*autoscalingv2.HorizontalPodAutoscaler]))
	c.budgets = collected[*policyv1.PodDisruptionBudget](c, set, api,
		informer.Index(disruption.IndexNamespace, byNamespace[*policyv1.PodDisruptionBudget]))

	c.claims = collected[*corev1.PersistentVolumeClaim](c, set, api,
		informer.Index(storage.IndexUnboundClaims, storage.UnboundClaims),
		informer.Index(storage.IndexClaimVolume, storage.ClaimVolume))
	c.volumes = informer.Of[*corev1.PersistentVolume](set,
		informer.Index(storage.IndexFreeVolumes, storage.FreeVolumes),
		informer.Index(storage.IndexVolumeClaim, storage.VolumeClaim))
	c.classes = informer.Of[*storagev1.StorageClass](set)
	c.drivers = informer.Of[*storagev1.CSIDriver](set)
	c.attachments = informer.Of[*storagev1.VolumeAttachment](set,
		informer.Index(attachdetach.IndexVolume, attachdetach.OfVolume),
		informer.Index(attachdetach.IndexNode, attachdetach.OfNode))

	// Kinds that nobody but the garbage collector looks at.
	collected[*networkingv1.Ingress](c, set, api)
	collected[*networkingv1.NetworkPolicy](c, set, api)
	collected[*rbacv1.Role](c, set, api)
	collected[*rbacv1.RoleBinding](c, set, api)
	return c
}

// collected adds a collection that the garbage collector looks at, too.
func collected[T object.Object](c *caches, set *informer.Set, api *client.Client, options ...informer.Option) *informer.Informer[T] {
	owners := informer.Index(garbagecollector.IndexOwner, func(obj T) []string { return garbagecollector.Owners(obj) })
	inf := informer.Of[T](set, append(options, owners)...)
	c.garbage = append(c.garbage, garbagecollector.Of(inf, api))
	return inf
}

// byNamespace indexes objects by their namespace.
func byNamespace[T object.Object](obj T) []string { return []string{obj.GetNamespace()} }

// customKind finds kinds among users' definitions.
func (c *caches) customKind(want schema.GroupKind) (object.Kind, bool) {
	for _, definition := range c.definitions.List() {
		if kind, served := informer.CustomKindOf(definition); served && kind.GVK.GroupKind() == want {
			return kind, true
		}
	}
	return object.Kind{}, false
}

// live reads objects of a kind past the caches.
func live[T object.Object](api *client.Client) func(context.Context, object.Key) (T, error) {
	return func(ctx context.Context, key object.Key) (T, error) { return client.Get[T](ctx, api, key) }
}
