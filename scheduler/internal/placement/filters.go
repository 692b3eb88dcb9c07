package placement

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"kijabi.dev/platform/kube/toleration"
)

// filter returns why a node cannot take a pod, nothing if it can. Reasons are
// worded as kube-scheduler words them, since people and tools search for them.
type filter func(p *prepared, n *node) []string

// filters in the order in which they are asked; the first that refuses is told.
var filters = []filter{nodeName, schedulable, taints, affinity, ports, fit, claims, podAffinity, spread}

// prepared is a pod with what filters need computed once.
type prepared struct {
	pod       *corev1.Pod
	requests  Resources
	ports     []hostPort
	affinity  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms
	terms     *podTerms
	spread    []spreadRule
	claims    *needs // nil if the pod has no claims
}

func nodeName(p *prepared, n *node) []string {
	if want := p.pod.Spec.NodeName; want != "" && want != n.name {
		return []string{"node(s) didn't match the requested node name"}
	}
	return nil
}

func schedulable(p *prepared, n *node) []string {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if n.object.Spec.Unschedulable && !toleration.Tolerates(p.pod, &taint) {
		return []string{"node(s) were unschedulable"}
	}
	return nil
}

func taints(p *prepared, n *node) []string {
	for i := range n.object.Spec.Taints {
		taint := &n.object.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !toleration.Tolerates(p.pod, taint) {
			return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)}
		}
	}
	return nil
}

func affinity(p *prepared, n *node) []string {
	if ok, err := p.affinity.Match(n.object); err != nil {
		return []string{"the pod's node affinity is invalid: " + err.Error()}
	} else if !ok {
		return []string{"node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

func ports(p *prepared, n *node) []string {
	for _, want := range p.ports {
		for have := range n.ports {
			if want.port == have.port && want.protocol == have.protocol &&
				(want.ip == have.ip || want.ip == "0.0.0.0" || have.ip == "0.0.0.0") {
				return []string{"node(s) didn't have free ports for the requested pod ports"}
			}
		}
	}
	return nil
}

func fit(p *prepared, n *node) []string {
	var reasons []string
	for name, want := range p.requests {
		if want == 0 || n.requested[name]+want <= n.allocatable[name] {
			continue
		}
		if name == corev1.ResourcePods {
			reasons = append(reasons, "Too many pods")
		} else {
			reasons = append(reasons, "Insufficient "+string(name))
		}
	}
	slices.Sort(reasons)
	return reasons
}
