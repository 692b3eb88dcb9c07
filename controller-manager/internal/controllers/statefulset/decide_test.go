package statefulset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"kijabi.dev/controller-manager/internal/history"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

type change func(*appsv1.StatefulSet)

func set(replicas int32, changes ...change) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "set", Generation: 3},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "nginx", PodManagementPolicy: appsv1.OrderedReadyPodManagement,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: template("new"),
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](0)},
			},
		},
	}
	for _, c := range changes {
		c(s)
	}
	return s
}

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "main", Image: image}},
			Volumes:    []corev1.Volume{{Name: "data"}, {Name: "config"}},
		},
	}
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
func leaving(s *appsv1.StatefulSet)  { s.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
func onDelete(s *appsv1.StatefulSet) {
	s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
}

func partitioned(n int32) change {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = &n }
}

func unavailable(value string) change {
	return func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.Parse(value))
	}
}

func from(start int32) change {
	return func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: start} }
}

func minReady(seconds int32) change {
	return func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = seconds }
}

// claims gives a set the claim template "data" and a retention policy.
func claims(whenDeleted, whenScaled appsv1.PersistentVolumeClaimRetentionPolicyType) change {
	return func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"own": "yes"}}}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: whenDeleted, WhenScaled: whenScaled}
	}
}

const (
	retain = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
)

func revision(name, image string) *appsv1.ControllerRevision {
	content := template(image)
	patch, err := history.Patch(&content)
	if err != nil {
		panic(err)
	}
	return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Data: runtime.RawExtension{Raw: patch}}
}

// pods makes pods of short descriptions: an ordinal, then letters: u updated (else of the old
// revision), b not ready, y ready for 4 s, f failed, d being deleted.
func pods(described ...string) []*corev1.Pod {
	var out []*corev1.Pod
	for _, d := range described {
		ordinal := strings.TrimRight(d, "ubyfd")
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "a", Name: "web-" + ordinal, UID: types.UID("pod-" + ordinal),
				Labels: map[string]string{
					"app": "web", "controller-revision-hash": "web-old",
					"statefulset.kubernetes.io/pod-name": "web-" + ordinal, "apps.kubernetes.io/pod-index": ordinal,
				},
			},
			Spec: corev1.PodSpec{NodeName: "node"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
			}},
		}
		for _, letter := range strings.TrimPrefix(d, ordinal) {
			switch letter {
			case 'u':
				p.Labels["controller-revision-hash"] = "web-new"
			case 'b':
				p.Status.Conditions[0].Status = corev1.ConditionFalse
			case 'y':
				p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-4 * time.Second))
			case 'f':
				p.Status.Phase = corev1.PodFailed
			case 'd':
				p.DeletionTimestamp = ptr.To(metav1.NewTime(now))
			}
		}
		out = append(out, p)
	}
	return out
}

func worldOf(s *appsv1.StatefulSet, owned []*corev1.Pod, known ...*corev1.PersistentVolumeClaim) world {
	return world{
		set: s, pods: members(s, labels.SelectorFromSet(s.Spec.Selector.MatchLabels), owned, nil), now: now,
		taken: func(name string) bool {
			return slices.ContainsFunc(owned, func(p *corev1.Pod) bool { return p.Name == name })
		},
		claimOf: func(name string) *corev1.PersistentVolumeClaim {
			for _, c := range known {
				if c.Name == name {
					return c
				}
			}
			return nil
		},
		current: revision("web-old", "old"), update: revision("web-new", "new"),
	}
}

// written is a plan in words: "+2u" creates web-2 of the new revision, "-1" removes web-1.
func written(p plan) string {
	var out []string
	for _, c := range p.create {
		updated := ""
		if revisionOf(c.pod) == "web-new" {
			updated = "u"
		}
		out = append(out, "+"+strings.TrimPrefix(c.pod.Name, "web-")+updated)
	}
	for _, pod := range p.remove {
		out = append(out, "-"+strings.TrimPrefix(pod.Name, "web-"))
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	for name, test := range map[string]struct {
		set  *appsv1.StatefulSet
		pods []*corev1.Pod
		want string
	}{
		"the first":                          {set(3), nil, "+0u"},
		"waits for the first":                {set(3), pods("0ub"), ""},
		"the second":                         {set(3), pods("0u"), "+1u"},
		"fills a gap first":                  {set(3), pods("0u", "2u"), "+1u"},
		"not beside its predecessor":         {set(3), pods("0u", "1ud", "2u"), ""},
		"all there":                          {set(3), pods("0u", "1u", "2u"), ""},
		"minReadySeconds hold the next":      {set(3, minReady(10)), pods("0uy"), ""},
		"a failed one is replaced":           {set(3), pods("0u", "1uf", "2u"), "-1"},
		"once":                               {set(3), pods("0u", "1ufd", "2u"), ""},
		"shrinks from the end":               {set(1), pods("0u", "1u", "2u"), "-2"},
		"one after the other":                {set(1), pods("0u", "1u", "2ud"), ""},
		"only while the rest is well":        {set(1), pods("0ub", "1u", "2u"), ""},
		"down to none":                       {set(0), pods("0u", "1u"), "-1"},
		"halts while several are not ready":  {set(0), pods("0ub", "1ub", "2ub"), ""},
		"but not for the last of them":       {set(0), pods("0u", "1u", "2ub"), "-2"},
		"nor for a template given up":        {set(0), pods("0b", "1b", "2b"), "-2"},
		"nor for one that failed":            {set(0), pods("0ub", "1uf"), "-1"},
		"ordinals start higher":              {set(2, from(5)), pods("5u"), "+6u"},
		"and leave those below":              {set(2, from(5)), pods("4u", "5u", "6u"), "-4"},
		"ordinals move":                      {set(2, from(1)), pods("0u", "1u"), "+2u"},
		"a set on its way out":               {set(3, leaving), pods("0b"), ""},
		"update from the end":                {set(3), pods("0", "1", "2"), "-2"},
		"in order":                           {set(3), pods("0", "1", "2ub"), ""},
		"recreated as updated":               {set(3), pods("0", "1"), "+2u"},
		"next":                               {set(3), pods("0", "1", "2u"), "-1"},
		"not above the partition":            {set(3, partitioned(2)), pods("0", "1", "2u"), ""},
		"below it as before":                 {set(3, partitioned(2)), pods("0", "2u"), "+1"},
		"a partition counts from the start":  {set(3, from(5), partitioned(2)), pods("5", "6", "7"), "-7"},
		"a partition above all":              {set(3, partitioned(9)), pods("0", "1", "2"), ""},
		"two at once":                        {set(4, unavailable("2")), pods("0", "1", "2", "3"), "-3 -2"},
		"half of them":                       {set(4, unavailable("50%")), pods("0", "1", "2", "3"), "-3 -2"},
		"at least one":                       {set(4, unavailable("10%")), pods("0", "1", "2", "3"), "-3"},
		"by hand":                            {set(3, onDelete), pods("0", "1b", "2"), ""},
		"by hand, recreated":                 {set(2, onDelete), pods("0"), "+1u"},
		"broken, its template given up":      {set(3), pods("0", "1", "2b"), "-2"},
		"broken in the middle":               {set(3), pods("0", "1b", "2"), "-1"},
		"broken below the partition":         {set(3, partitioned(2)), pods("0", "1b", "2"), ""},
		"of two broken the first":            {set(3), pods("0b", "1", "2b"), "-0"},
		"then not the second beside it":      {set(3), pods("0ub", "1", "2b"), ""},
		"ready but young is not broken":      {set(2, minReady(10)), pods("0", "1y"), ""},
		"grows before it updates":            {set(4), pods("0", "1", "2"), "+3u"},
		"shrinks before it updates":          {set(2), pods("0", "1", "2"), "-2"},
		"parallel: all at once":              {set(3, parallel), nil, "+0u +1u +2u"},
		"parallel: beside broken ones":       {set(3, parallel), pods("1ub"), "+0u +2u"},
		"parallel: shrinks at once":          {set(1, parallel), pods("0ub", "1u", "2u"), "-2 -1"},
		"parallel: update one":               {set(3, parallel), pods("0", "1", "2"), "-2"},
		"parallel: not while one is down":    {set(3, parallel), pods("0", "1", "2ub"), ""},
		"parallel: nor while one ends":       {set(3, parallel), pods("0", "1d", "2u"), ""},
		"parallel: nor while one is missing": {set(3, parallel), pods("0", "1"), "+2u"},
		"parallel: broken ones at once":      {set(3, parallel), pods("0b", "1", "2b"), "-0 -2"},
		"parallel: two":                      {set(4, parallel, unavailable("2")), pods("0", "1", "2", "3ub"), "-2"},
		"parallel: failed ones at once":      {set(3, parallel), pods("0uf", "1u", "2uf"), "-0 -2"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := decide(worldOf(test.set, test.pods))
			if err != nil {
				t.Fatal(err)
			}
			if got := written(p); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	count := func(s appsv1.StatefulSetStatus) string {
		return fmt.Sprint(s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.CurrentReplicas, s.UpdatedReplicas) + " " + s.CurrentRevision + " " + s.UpdateRevision
	}
	for name, test := range map[string]struct {
		set  *appsv1.StatefulSet
		pods []*corev1.Pod
		want string
	}{
		"an update under way":            {set(3, minReady(10)), pods("0", "1y", "2ub"), "3 2 1 2 1 web-old web-new"},
		"pods that end are of none":      {set(3), pods("0", "1", "2d"), "3 3 3 2 0 web-old web-new"},
		"complete":                       {set(2), pods("0u", "1u"), "2 2 2 2 2 web-new web-new"},
		"not with one too many":          {set(1), pods("0u", "1u"), "2 2 2 0 2 web-old web-new"},
		"not while pods are missing":     {set(3, partitioned(2)), pods("2u"), "1 1 1 0 1 web-old web-new"},
		"not before all are ready":       {set(2), pods("0u", "1ub"), "2 1 1 0 2 web-old web-new"},
		"none is complete":               {set(0), nil, "0 0 0 0 0 web-new web-new"},
		"above the partition it is held": {set(3, partitioned(2)), pods("0", "1", "2u"), "3 3 3 2 1 web-old web-new"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := decide(worldOf(test.set, test.pods))
			if err != nil {
				t.Fatal(err)
			}
			if got := count(p.status); got != test.want || p.status.ObservedGeneration != 3 {
				t.Errorf("%s, want %s; observed %d", got, test.want, p.status.ObservedGeneration)
			}
		})
	}
	if p, _ := decide(worldOf(set(3, minReady(10)), pods("0", "1y"))); p.requeueAfter != 6*time.Second {
		t.Errorf("due again in %s", p.requeueAfter)
	}
}

func TestIdentity(t *testing.T) {
	s := set(3, from(4), partitioned(1), claims(retain, retain))
	p, err := decide(worldOf(s, pods("4")))
	if err != nil || len(p.create) != 1 {
		t.Fatal(p, err)
	}
	pod := p.create[0].pod
	if pod.Name != "web-5" || pod.Namespace != "a" || pod.Spec.Hostname != "web-5" || pod.Spec.Subdomain != "nginx" || pod.Spec.Containers[0].Image != "new" {
		t.Errorf("%+v", pod)
	}
	for key, want := range map[string]string{
		"app": "web", "statefulset.kubernetes.io/pod-name": "web-5", "apps.kubernetes.io/pod-index": "5", "controller-revision-hash": "web-new",
	} {
		if pod.Labels[key] != want {
			t.Errorf("label %s is %q", key, pod.Labels[key])
		}
	}
	if len(pod.Spec.Volumes) != 2 || pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-web-5" || pod.Spec.Volumes[1].Name != "config" {
		t.Errorf("volumes %+v", pod.Spec.Volumes)
	}
	if ref := pod.OwnerReferences; len(ref) != 1 || ref[0].Kind != "StatefulSet" || ref[0].UID != "set" || !*ref[0].Controller {
		t.Errorf("owners %+v", ref)
	}
	if s.Spec.Template.Labels["controller-revision-hash"] != "" {
		t.Error("the set was changed")
	}
	// An adopted pod without its marks gets them; it counts as of no revision.
	odd := pods("4")
	odd[0].Labels = map[string]string{"app": "web"}
	if p, _ := decide(worldOf(set(1, from(4)), odd)); len(p.label) != 1 || p.label[0].Labels["apps.kubernetes.io/pod-index"] != "4" || written(p) != "-4" {
		t.Errorf("labels %v, %q", p.label, written(p))
	}
}

func TestMembers(t *testing.T) {
	selector := labels.SelectorFromSet(labels.Set{"app": "web"})
	s := set(5)
	all := pods("0", "1f", "2d", "3fd", "4")
	for i, name := range []string{"web-x", "web-007", "webb-1", "web-1-1"} {
		stranger := pods(fmt.Sprint(i + 10))[0]
		stranger.Name = name
		all = append(all, stranger)
	}
	all[4].Labels["app"] = "other"
	names := func(pods []*corev1.Pod) string {
		var out []string
		for _, p := range pods {
			out = append(out, p.Name)
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	// A pod that has finished keeps the name that its successor needs, so it is adopted.
	if c := members(s, selector, nil, all); names(c.Adopt) != "web-0 web-1" || names(c.Own) != "web-0 web-1" {
		t.Errorf("adopts %s, owns %s", names(c.Adopt), names(c.Own))
	}
	if c := members(s, selector, all, nil); names(c.Release) != "web-007 web-1-1 web-4 web-x webb-1" || names(c.Own) != "web-0 web-1 web-2 web-3" {
		t.Errorf("releases %s, owns %s", names(c.Release), names(c.Own))
	}
	leaving(s)
	if c := members(s, selector, all, all); len(c.Adopt)+len(c.Release) > 0 {
		t.Errorf("on its way out it adopts %s, releases %s", names(c.Adopt), names(c.Release))
	}
}

// The name of a stranger's pod is not fought over.
func TestNameIsTaken(t *testing.T) {
	w := worldOf(set(2), pods("0u"))
	w.taken = func(name string) bool { return name == "web-1" }
	if p, _ := decide(w); written(p) != "" || p.blocked["web-1"] != `pods "web-1" already exists` {
		t.Errorf("%q, blocked %v", written(p), p.blocked)
	}
}

// A set that asks for absurdly many pods costs no more than those that it gets at once.
func TestAbsurdReplicas(t *testing.T) {
	if p, _ := decide(worldOf(set(1<<31-1, parallel), pods("7u"))); len(p.create) != mostCreated {
		t.Errorf("%d at once", len(p.create))
	}
	if p, _ := decide(worldOf(set(1<<31-1), pods("7u"))); written(p) != "+0u" {
		t.Errorf("in order: %s", written(p))
	}
}
