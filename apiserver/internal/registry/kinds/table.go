package kinds

import "sync"

// Options of the table.
type Options struct {
	// TolerationSeconds is how long pods stay on a node that is not ready or cannot be
	// reached, unless they say otherwise. Default 30.
	TolerationSeconds int64
}

// All returns the whole table in discovery order: core first, then groups by name.
func All(options Options) []*Kind {
	if options.TolerationSeconds == 0 {
		options.TolerationSeconds = 30
	}
	events, autoscalers := event(), autoscaler()
	return []*Kind{
		configMap(), events, namespace(), node(), pod(options), podTemplate(), replicationController(), secret(), serviceAccount(), service(),
		controllerRevision(), daemonSet(), deployment(), replicaSet(), statefulSet(),
		autoscalers, oldAutoscaler(autoscalers),
		cronJob(), job(),
		lease(),
		endpointSlice(),
		newEvent(events),
		runtimeClass(),
		disruptionBudget(),
		priorityClass(),
		// Storage, networking and the cluster's own configuration.
		persistentVolume(), persistentVolumeClaim(), limitRange(), resourceQuota(), endpoints(),
		mutatingAdmissionPolicy(), mutatingAdmissionPolicyBinding(), mutatingWebhookConfiguration(),
		validatingAdmissionPolicy(), validatingAdmissionPolicyBinding(), validatingWebhookConfiguration(),
		certificateSigningRequest(),
		flowSchema(), priorityLevelConfiguration(),
		ipAddress(), ingress(), ingressClass(), networkPolicy(), serviceCIDR(),
		csiDriver(), csiNode(), csiStorageCapacity(), storageClass(), volumeAttachment(), volumeAttributesClass(),
		clusterRoleBinding(), clusterRole(), roleBinding(), role(),
	}
}

// defaultTable serves callers without options of their own, such as printers.
var defaultTable = sync.OnceValue(func() []*Kind { return All(Options{}) })

// Default returns the table with default options. It is shared.
func Default() []*Kind { return defaultTable() }
