package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"kijabi.dev/platform/kube/object"
)

// Taints of nodes that the node lifecycle controller sets.
const (
	taintNotReady    = "node.kubernetes.io/not-ready"
	taintUnreachable = "node.kubernetes.io/unreachable"
)

func pod(options Options) *Kind {
	kind := object.KindOf[*corev1.Pod]()
	stream := func(name string, verbs ...string) Subresource {
		return Subresource{Name: name, GVK: kind.GVK, Verbs: verbs, Stream: true}
	}
	return &Kind{
		Kind: kind, Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{
			stream("attach", "create", "get"),
			{Name: "binding", GVK: corev1.SchemeGroupVersion.WithKind("Binding"), Verbs: []string{"create"}},
			{Name: "ephemeralcontainers", GVK: kind.GVK, Verbs: []string{"get", "patch", "update"}},
			{Name: "eviction", GVK: policyv1.SchemeGroupVersion.WithKind("Eviction"), Verbs: []string{"create"}},
			stream("exec", "create", "get"),
			stream("log", "get"),
			stream("portforward", "create", "get"),
			stream("proxy", "create", "delete", "get", "patch", "update"),
			stream("restart", "create"), // ours; Kubernetes has none
			statusSubresource(kind),
		},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Ready", "string", "Ready containers of all"), column("Status", "string", "Phase or reason"),
			column("Restarts", "string", "How often containers were restarted"), ageColumn(),
			wide("IP", "string", "Address of the pod"), wide("Node", "string", "Node the pod runs on"),
			wide("Nominated Node", "string", "Node that is being freed for the pod"), wide("Readiness Gates", "string", "Conditions beside its containers"),
		},
		Row: rowOf(podRow),
		SelectableFields: []string{
			"spec.hostNetwork", "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
			"status.nominatedNodeName", "status.phase", "status.podIP",
		},
		Fields:       fieldsOf(podFields),
		WireFields:   podWireFields,
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(p *corev1.Pod) {
			defaultPodSpec(&p.Spec)
			defaultPod(p, options.TolerationSeconds)
		}),
		PrepareForCreate: on(func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOSClass(p)}
			if len(p.Spec.SchedulingGates) > 0 {
				p.Status.Conditions = []corev1.PodCondition{{
					Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
					Message: "Scheduling is blocked due to non-empty scheduling gates",
				}}
			}
		}),
		PrepareForUpdate: onBoth(func(p, old *corev1.Pod) {
			p.Status = old.Status
			p.Spec.EphemeralContainers = old.Spec.EphemeralContainers
			keepPodAdmitted(p, old)
		}),
		PrepareForStatusUpdate: onBoth(func(p, old *corev1.Pod) {
			p.Spec = old.Spec
			keepStatusMetadata(&p.ObjectMeta, &old.ObjectMeta, true)
			setDefault(&p.Status.QOSClass, old.Status.QOSClass)
		}),
		SpecEqual:            specEqual(func(p *corev1.Pod) *corev1.PodSpec { return &p.Spec }),
		Validate:             check(validatePod),
		ValidateUpdate:       checkBoth(validatePodUpdate),
		ValidateStatusUpdate: checkBoth(validatePodStatusUpdate),
		GracePeriod: func(obj object.Object, wish *int64) int64 {
			return podGracePeriod(obj.(*corev1.Pod), wish)
		},
	}
}

// podGracePeriod is how long a pod gets to end. One that no kubelet has, or that has ended,
// goes at once: nobody would confirm it.
func podGracePeriod(p *corev1.Pod, wish *int64) int64 {
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	period := int64(corev1.DefaultTerminationGracePeriodSeconds)
	switch {
	case wish != nil:
		period = *wish
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if period < 0 {
		return 1
	}
	return period
}

// keepPodAdmitted carries over what was added on creation, for clients that send the
// manifest they created the pod with.
func keepPodAdmitted(p, old *corev1.Pod) {
	setDefault(&p.Spec.NodeName, old.Spec.NodeName)
	if p.Spec.Priority == nil {
		p.Spec.Priority = old.Spec.Priority
	}
}

func podFields(p *corev1.Pod) map[string]string {
	set := make(map[string]string, 6)
	put := func(key, value string) {
		if value != "" {
			set[key] = value
		}
	}
	put("spec.nodeName", p.Spec.NodeName)
	put("spec.restartPolicy", string(p.Spec.RestartPolicy))
	put("spec.schedulerName", p.Spec.SchedulerName)
	put("spec.serviceAccountName", p.Spec.ServiceAccountName)
	put("status.phase", string(p.Status.Phase))
	put("status.podIP", p.Status.PodIP)
	put("status.nominatedNodeName", p.Status.NominatedNodeName)
	set["spec.hostNetwork"] = "false"
	if p.Spec.HostNetwork {
		set["spec.hostNetwork"] = "true"
	}
	return set
}

// QOSClass tells how a pod fares when its node runs short: Guaranteed when every container's
// limits for cpu and memory are set and equal its requests, BestEffort when none asks for
// anything, Burstable otherwise.
func QOSClass(p *corev1.Pod) corev1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	any, guaranteed := false, true
	count := func(resources *corev1.ResourceRequirements) {
		for _, name := range [...]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := resources.Requests[name], resources.Limits[name]
			if !request.IsZero() || !limit.IsZero() {
				any = true
			}
			if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
				guaranteed = false
			}
		}
	}
	if p.Spec.Resources != nil && len(p.Spec.Resources.Requests)+len(p.Spec.Resources.Limits) > 0 {
		count(p.Spec.Resources)
	} else {
		for i := range p.Spec.Containers {
			count(&p.Spec.Containers[i].Resources)
		}
		for i := range p.Spec.InitContainers {
			count(&p.Spec.InitContainers[i].Resources)
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func podRow(p *corev1.Pod, now time.Time) []any {
	ready, total, restarts, last := podReadiness(p)
	restartText := fmt.Sprint(restarts)
	if restarts > 0 && !last.IsZero() {
		restartText = fmt.Sprintf("%d (%s ago)", restarts, duration.HumanDuration(now.Sub(last.Time)))
	}
	address := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		address = p.Status.PodIPs[0].IP
	}
	gates := "<none>"
	if len(p.Spec.ReadinessGates) > 0 {
		gates = fmt.Sprintf("%d/%d", trueGates(p), len(p.Spec.ReadinessGates))
	}
	return []any{
		p.Name, fmt.Sprintf("%d/%d", ready, total), podReason(p), restartText, age(p.CreationTimestamp, now),
		orNone(address), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName), gates,
	}
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func trueGates(p *corev1.Pod) int {
	n := 0
	for _, gate := range p.Spec.ReadinessGates {
		for _, condition := range p.Status.Conditions {
			if condition.Type == gate.ConditionType && condition.Status == corev1.ConditionTrue {
				n++
			}
		}
	}
	return n
}

// sidecars are init containers that keep running beside the main ones.
func sidecars(p *corev1.Pod) map[string]bool {
	set := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if policy := p.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			set[p.Spec.InitContainers[i].Name] = true
		}
	}
	return set
}

func podReadiness(p *corev1.Pod) (ready, total, restarts int, last metav1.Time) {
	total = len(p.Spec.Containers)
	beside := sidecars(p)
	total += len(beside)
	count := func(status *corev1.ContainerStatus) {
		restarts += int(status.RestartCount)
		if ended := status.LastTerminationState.Terminated; ended != nil && last.Before(&ended.FinishedAt) {
			last = ended.FinishedAt
		}
	}
	for i := range p.Status.InitContainerStatuses {
		status := &p.Status.InitContainerStatuses[i]
		if !beside[status.Name] && podInitialized(p) {
			continue // finished init containers no longer matter
		}
		count(status)
		if beside[status.Name] && status.Started != nil && *status.Started && status.Ready {
			ready++
		}
	}
	for i := range p.Status.ContainerStatuses {
		status := &p.Status.ContainerStatuses[i]
		count(status)
		if status.Ready && status.State.Running != nil {
			ready++
		}
	}
	return ready, total, restarts, last
}

func podInitialized(p *corev1.Pod) bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodInitialized {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func hasCondition(p *corev1.Pod, kind corev1.PodConditionType, reason string) bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == kind && condition.Reason == reason {
			return true
		}
	}
	return false
}

// podReason is the one word kubectl shows for a pod's state.
func podReason(p *corev1.Pod) string {
	reason := string(p.Status.Phase)
	if p.Status.Reason != "" {
		reason = p.Status.Reason
	}
	if hasCondition(p, corev1.PodScheduled, corev1.PodReasonSchedulingGated) {
		reason = corev1.PodReasonSchedulingGated
	}
	if text, ok := initReason(p); ok && !podInitialized(p) {
		reason = text
	} else {
		reason = containersReason(p, reason)
	}
	if p.DeletionTimestamp != nil {
		if p.Status.Reason == "NodeLost" {
			return "Unknown"
		}
		if p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
			return "Terminating"
		}
	}
	return reason
}

func initReason(p *corev1.Pod) (string, bool) {
	beside := sidecars(p)
	for i := range p.Status.InitContainerStatuses {
		status := &p.Status.InitContainerStatuses[i]
		ended, waiting := status.State.Terminated, status.State.Waiting
		switch {
		case ended != nil && ended.ExitCode == 0:
			continue
		case beside[status.Name] && status.Started != nil && *status.Started:
			continue
		case ended != nil:
			return "Init:" + terminatedReason(ended), true
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			return "Init:" + waiting.Reason, true
		}
		return fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers)), true
	}
	return "", false
}

func containersReason(p *corev1.Pod, reason string) string {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		status := &p.Status.ContainerStatuses[i]
		switch {
		case status.State.Waiting != nil && status.State.Waiting.Reason != "":
			reason = status.State.Waiting.Reason
		case status.State.Terminated != nil:
			reason = terminatedReason(status.State.Terminated)
		case status.Ready && status.State.Running != nil:
			running = true
		}
	}
	// One container may have completed while others go on.
	if reason == "Completed" && running {
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return "Running"
			}
		}
		return "NotReady"
	}
	return reason
}

func terminatedReason(state *corev1.ContainerStateTerminated) string {
	switch {
	case state.Reason != "":
		return state.Reason
	case state.Signal != 0:
		return fmt.Sprintf("Signal:%d", state.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", state.ExitCode)
}

// imageTag returns what follows the colon of an image's last path element, "latest" when
// nothing does, and whether the image is fixed by digest.
func imageTag(image string) (tag string, digest bool) {
	if strings.Contains(image, "@") {
		return "", true
	}
	last := image[strings.LastIndexByte(image, '/')+1:]
	if _, tag, ok := strings.Cut(last, ":"); ok {
		return tag, false
	}
	return "latest", false
}
