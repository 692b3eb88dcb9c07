package admission

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"kijabi.dev/platform/kube/object"
)

// podSecurity is what pods may ask of their nodes: the Pod Security Standards, by the
// labels of their namespace.
type podSecurity struct {
	evaluator policy.Evaluator
	level     api.Level
}

func newPodSecurity(level string) (*podSecurity, error) {
	if level == "" {
		level = string(api.LevelBaseline)
	}
	parsed, err := api.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("pod security level %q: %w", level, err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security: %w", err)
	}
	return &podSecurity{evaluator: evaluator, level: parsed}, nil
}

// policyOf reads a namespace's labels. What they do not say is the cluster's level, and
// who sets the level of refusal sets that of warnings with it. A label that cannot be read
// counts as restricted.
func (s *podSecurity) policyOf(namespace *corev1.Namespace) api.Policy {
	level := s.level
	if namespace.Name == metav1.NamespaceSystem {
		level = api.LevelPrivileged
	}
	lowest := api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()}
	p, _ := api.PolicyToEvaluate(namespace.Labels, api.Policy{
		Enforce: api.LevelVersion{Level: level, Version: api.LatestVersion()}, Warn: lowest, Audit: lowest,
	})
	if _, said := namespace.Labels[api.WarnLevelLabel]; !said {
		p.Warn = p.Enforce
	}
	return p
}

// violates names what a pod has that the level does not allow; empty if nothing.
func (s *podSecurity) violates(level api.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) string {
	if level.Level == api.LevelPrivileged {
		return ""
	}
	result := policy.AggregateCheckResults(s.evaluator.EvaluatePod(level, meta, spec))
	if result.Allowed {
		return ""
	}
	return result.ForbiddenDetail()
}

// checkPodSecurity refuses pods that ask for more than their namespace allows. Of pods to
// come, by the template of a controller, it warns.
func checkPodSecurity(c *Chain, r *Request) error {
	if namespace, ok := r.Object.(*corev1.Namespace); ok && r.Subresource == "" {
		return c.checkLevels(r, namespace)
	}
	if r.Namespace == "" || r.Object == nil {
		return nil
	}
	pod, isPod := r.Object.(*corev1.Pod)
	if isPod && (r.Subresource == "ephemeralcontainers" || r.Verb == Create && r.Subresource == "") {
		p := c.security.policyOf(c.namespaceOf(r))
		if found := c.security.violates(p.Enforce, &pod.ObjectMeta, &pod.Spec); found != "" {
			return r.forbidden("violates PodSecurity %q: %s", p.Enforce.String(), found)
		}
		if !p.Warn.Equivalent(&p.Enforce) { // else it has just been found to be within
			c.warnOf(r, p.Warn, &pod.ObjectMeta, &pod.Spec)
		}
		return nil
	}
	if template := templateOf(r.Object); template != nil && r.Subresource == "" {
		c.warnOf(r, c.security.policyOf(c.namespaceOf(r)).Warn, &template.ObjectMeta, &template.Spec)
	}
	return nil
}

func (c *Chain) warnOf(r *Request, level api.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) {
	if found := c.security.violates(level, meta, spec); found != "" {
		r.warn("would violate PodSecurity %q: %s", level.String(), found)
	}
}

// namespaceOf returns the namespace that is written into. One that does not exist has the
// cluster's level; the write fails soon for want of it.
func (c *Chain) namespaceOf(r *Request) *corev1.Namespace {
	if namespace, ok := find[*corev1.Namespace](c, "", r.Namespace); ok {
		return namespace
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.Namespace}}
}

// maxPodsLookedAt bounds the look at a namespace's pods when its level is raised.
const maxPodsLookedAt = 1000

// checkLevels refuses labels that name no level, and warns of pods that are there and
// would not be let in by a new level.
func (c *Chain) checkLevels(r *Request, namespace *corev1.Namespace) error {
	if r.Verb == Delete {
		return nil
	}
	if _, errs := api.PolicyToEvaluate(namespace.Labels, api.Policy{}); len(errs) > 0 {
		return apierrors.NewInvalid(r.Kind.GVK.GroupKind(), namespace.Name, errs)
	}
	before, ok := r.Old.(*corev1.Namespace)
	if !ok {
		return nil
	}
	level := c.security.policyOf(namespace).Enforce
	if was := c.security.policyOf(before).Enforce; was.Equivalent(&level) || level.Level == api.LevelPrivileged {
		return nil
	}
	var lines []string
	records := c.objects.store.Snapshot("pods", namespace.Name).Records
	kind := object.KindOf[*corev1.Pod]()
	for _, record := range records[:min(len(records), maxPodsLookedAt)] {
		obj, err := object.Decode(kind, record.Value)
		if err != nil {
			continue
		}
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			continue
		}
		if found := c.security.violates(level, &pod.ObjectMeta, &pod.Spec); found != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", pod.Name, found))
		}
	}
	if len(lines) > 0 {
		slices.Sort(lines)
		r.warn("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace.Name, level.String())
		r.Warnings = append(r.Warnings, lines[:min(len(lines), 10)]...)
	}
	return nil
}

// templateOf returns the template of pods in a controller; nil for other objects.
func templateOf(obj object.Object) *corev1.PodTemplateSpec {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	case *corev1.PodTemplate:
		return &o.Template
	}
	return nil
}
