package daemonset

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/object"
)

func objectKey(namespace, name string) object.Key {
	return object.Key{Namespace: namespace, Name: name}
}

func node(name string, changes ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1", Labels: map[string]string{"disk": "ssd", "cores": "8"}}}
	for _, c := range changes {
		c(n)
	}
	return n
}

func tainted(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func terms(terms ...corev1.NodeSelectorTerm) func(*appsv1.DaemonSet) {
	return func(s *appsv1.DaemonSet) {
		s.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
		}}
	}
}

func labelled(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func called(op corev1.NodeSelectorOperator, names ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: op, Values: names}}}
}

func TestJudge(t *testing.T) {
	selects := func(key, value string) func(*appsv1.DaemonSet) {
		return func(s *appsv1.DaemonSet) { s.Spec.Template.Spec.NodeSelector = map[string]string{key: value} }
	}
	both := labelled("disk", corev1.NodeSelectorOpIn, "ssd")
	both.MatchExpressions = append(both.MatchExpressions, labelled("gpu", corev1.NodeSelectorOpExists).MatchExpressions...)
	for name, test := range map[string]struct {
		set  *appsv1.DaemonSet
		node *corev1.Node
		want verdict
	}{
		"any":                          {set(), node("n1"), runs},
		"selected":                     {set(selects("disk", "ssd")), node("n1"), runs},
		"not selected":                 {set(selects("disk", "hdd")), node("n1"), refuses},
		"NoSchedule lets stay":         {set(), node("n1", tainted("t", corev1.TaintEffectNoSchedule)), stays},
		"NoExecute does not":           {set(), node("n1", tainted("t", corev1.TaintEffectNoExecute)), refuses},
		"PreferNoSchedule is no bar":   {set(), node("n1", tainted("t", corev1.TaintEffectPreferNoSchedule)), runs},
		"silent node":                  {set(), node("n1", tainted("node.kubernetes.io/unreachable", corev1.TaintEffectNoExecute)), runs},
		"silent node, its other taint": {set(), node("n1", tainted("node.kubernetes.io/unreachable", corev1.TaintEffectNoSchedule)), stays},
		"cordoned node":                {set(), node("n1", tainted("node.kubernetes.io/unschedulable", corev1.TaintEffectNoSchedule)), runs},
		"node without network":         {set(), node("n1", tainted("node.kubernetes.io/network-unavailable", corev1.TaintEffectNoSchedule)), stays},
		"tolerated": {set(func(s *appsv1.DaemonSet) {
			s.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}), node("n1", tainted("t", corev1.TaintEffectNoExecute)), runs},
		"named":            {set(func(s *appsv1.DaemonSet) { s.Spec.Template.Spec.NodeName = "n1" }), node("n1"), runs},
		"another is named": {set(func(s *appsv1.DaemonSet) { s.Spec.Template.Spec.NodeName = "n2" }), node("n1"), refuses},
		"one term":         {set(terms(labelled("disk", corev1.NodeSelectorOpIn, "hdd", "ssd"))), node("n1"), runs},
		"either term":      {set(terms(labelled("gpu", corev1.NodeSelectorOpExists), labelled("disk", corev1.NodeSelectorOpNotIn, "hdd"))), node("n1"), runs},
		"all of a term":    {set(terms(both)), node("n1"), refuses},
		"greater":          {set(terms(labelled("cores", corev1.NodeSelectorOpGt, "7"))), node("n1"), runs},
		"less":             {set(terms(labelled("cores", corev1.NodeSelectorOpLt, "7"))), node("n1"), refuses},
		"absent":           {set(terms(labelled("gpu", corev1.NodeSelectorOpDoesNotExist))), node("n1"), runs},
		"by name":          {set(terms(called(corev1.NodeSelectorOpIn, "n1"))), node("n1"), runs},
		"by other name":    {set(terms(called(corev1.NodeSelectorOpIn, "n2"))), node("n1"), refuses},
		"not by name":      {set(terms(called(corev1.NodeSelectorOpNotIn, "n1"))), node("n1"), refuses},
		"an empty term":    {set(terms(corev1.NodeSelectorTerm{})), node("n1"), refuses},
		"an invalid term":  {set(terms(labelled("cores", corev1.NodeSelectorOpGt, "many"))), node("n1"), refuses},
	} {
		t.Run(name, func(t *testing.T) {
			if got := newJudge(test.set).on(test.node); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// Each node is judged once for a set, and again only when one of the two has changed.
func TestNodesAreJudgedOnce(t *testing.T) {
	var e eligibility
	s := set()
	nodes := make([]*corev1.Node, 1000)
	for i := range nodes {
		nodes[i] = node(fmt.Sprintf("n%03d", len(nodes)-i))
	}
	for range 5 {
		if seats := e.of(s, nodes); len(seats) != 1000 || seats[0].node != "n001" || !seats[0].run {
			t.Fatalf("%d nodes, first %+v", len(seats), seats[0])
		}
	}
	if e.asked != 1000 {
		t.Errorf("judged %d times", e.asked)
	}
	beating := nodes[7].DeepCopy()
	beating.ResourceVersion = "2"
	if e.differs(s, nodes[7], beating) {
		t.Error("a node that only reports is news to the set")
	}
	full := beating.DeepCopy()
	full.ResourceVersion = "3"
	tainted("t", corev1.TaintEffectNoSchedule)(full)
	if !e.differs(s, beating, full) || !e.differs(s, nil, full) || !e.differs(s, full, nil) {
		t.Error("a change is missed")
	}
	nodes[7] = full
	if e.of(s, nodes); e.asked != 1002 {
		t.Errorf("judged %d times", e.asked)
	}
	e.of(s, nodes[:10])
	if n := len(e.known[object.KeyOf(s)].nodes); n != 10 {
		t.Errorf("%d nodes remembered of 10", n)
	}
	other := s.DeepCopy()
	other.Generation++
	other.UID = types.UID("other")
	if e.of(other, nodes[:10]); e.asked != 1012 {
		t.Errorf("judged %d times", e.asked)
	}
	e.forget(object.KeyOf(s))
	if len(e.known) != 0 {
		t.Error("a set that is gone is remembered")
	}
}

func BenchmarkOnePodOfAThousand(b *testing.B) {
	var e eligibility
	s := set()
	nodes, pods := make([]*corev1.Node, 1000), make([]*corev1.Pod, 1000)
	for i := range nodes {
		nodes[i] = node(fmt.Sprintf("n%03d", i))
		pods[i] = pod(nodes[i].Name+"-a", fresh)
	}
	w := worldOf(s, nil, pods...)
	for b.Loop() {
		w.seats = e.of(s, nodes)
		if p, err := decide(w); err != nil || len(p.create)+len(p.remove) > 0 {
			b.Fatal("something to do")
		}
	}
}
