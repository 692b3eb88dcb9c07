package statefulset

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func claim(ordinal int, owners ...metav1.OwnerReference) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprintf("data-web-%d", ordinal), OwnerReferences: owners}}
}

func bySet() metav1.OwnerReference { return setReference(set(1)) }

func byPod(ordinal int, uid string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: fmt.Sprintf("web-%d", ordinal), UID: types.UID(uid), Controller: ptr.To(true)}
}

func ownersOf(refs []metav1.OwnerReference) string {
	var out []string
	for _, ref := range refs {
		out = append(out, ref.Kind+" "+string(ref.UID))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestClaimsComeBeforeTheirPod(t *testing.T) {
	p, err := decide(worldOf(set(2, claims(retain, retain)), nil))
	if err != nil || len(p.create) != 1 || len(p.create[0].claims) != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	made := p.create[0].claims[0]
	if made.Name != "data-web-0" || made.Namespace != "a" || made.Labels["app"] != "web" || made.Labels["own"] != "yes" || len(made.OwnerReferences) > 0 {
		t.Errorf("%+v", made.ObjectMeta)
	}
	// It outlives pods: the next pod of the name gets it again.
	if p, _ := decide(worldOf(set(2, claims(retain, retain)), nil, claim(0))); len(p.create) != 1 || len(p.create[0].claims) != 0 {
		t.Errorf("%+v", p.create)
	}
	if p, _ := decide(worldOf(set(2, claims(remove, retain)), nil)); ownersOf(p.create[0].claims[0].OwnerReferences) != "StatefulSet set" {
		t.Errorf("goes with the set, but is owned by %s", ownersOf(p.create[0].claims[0].OwnerReferences))
	}
	// A pod that waits for a claim which somebody deleted gets a new one.
	waiting := pods("0ub")
	waiting[0].Status.Phase = corev1.PodPending
	if p, _ := decide(worldOf(set(1, claims(retain, retain)), waiting)); len(p.lack) != 1 || p.lack[0].claims[0].Name != "data-web-0" {
		t.Errorf("%+v", p.lack)
	}
}

// A claim that goes away with the last pod of its place must be gone before the next one starts.
func TestDoomedClaimsAreWaitedFor(t *testing.T) {
	terminating := claim(0)
	terminating.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	for name, doomed := range map[string]*corev1.PersistentVolumeClaim{"terminating": terminating, "an earlier pod's": claim(0, byPod(0, "earlier"))} {
		p, err := decide(worldOf(set(1, claims(retain, remove)), nil, doomed))
		if err != nil || len(p.create) > 0 || p.blocked["web-0"] != "pvc data-web-0 is being deleted" {
			t.Errorf("%s: %s, blocked %v, %v", name, written(p), p.blocked, err)
		}
	}
}

func TestRetention(t *testing.T) {
	other := metav1.OwnerReference{Kind: "ConfigMap", UID: "other"}
	master := metav1.OwnerReference{Kind: "Backup", UID: "master", Controller: ptr.To(true)}
	for name, test := range map[string]struct {
		deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType
		away            bool // the pod is scaled away
		has             []metav1.OwnerReference
		want            string // "=" if nothing changes
	}{
		"kept":                            {retain, retain, false, nil, "="},
		"kept when scaled away":           {retain, retain, true, nil, "="},
		"kept from now on":                {retain, retain, false, []metav1.OwnerReference{bySet()}, ""},
		"kept, once to go with its pod":   {retain, retain, true, []metav1.OwnerReference{byPod(0, "pod-0")}, ""},
		"with the set":                    {remove, retain, false, nil, "StatefulSet set"},
		"with the set, scaled away":       {remove, retain, true, []metav1.OwnerReference{bySet()}, "="},
		"with the set already":            {remove, retain, false, []metav1.OwnerReference{bySet()}, "="},
		"with the pod, not yet":           {retain, remove, false, nil, "="},
		"with the pod":                    {retain, remove, true, nil, "Pod pod-0"},
		"with the pod, scaled back":       {retain, remove, false, []metav1.OwnerReference{byPod(0, "pod-0")}, ""},
		"with either, in its place":       {remove, remove, false, nil, "StatefulSet set"},
		"with either, scaled away":        {remove, remove, true, []metav1.OwnerReference{bySet()}, "Pod pod-0"},
		"others' references stay":         {retain, remove, true, []metav1.OwnerReference{other}, "ConfigMap other, Pod pod-0"},
		"another controller's claim":      {remove, remove, true, []metav1.OwnerReference{master}, "="},
		"another controller's, once ours": {remove, remove, true, []metav1.OwnerReference{bySet(), master}, "="},
	} {
		t.Run(name, func(t *testing.T) {
			replicas := int32(1)
			if test.away {
				replicas = 0
			}
			p, err := decide(worldOf(set(replicas, claims(test.deleted, test.scaled)), pods("0u"), claim(0, test.has...)))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case test.want == "=" && len(p.owners) > 0:
				t.Errorf("owners become %s", ownersOf(p.owners[0].owners))
			case test.want != "=" && (len(p.owners) != 1 || ownersOf(p.owners[0].owners) != test.want):
				t.Errorf("%+v, want %s", p.owners, test.want)
			}
			for _, change := range p.owners {
				if change.owners == nil {
					t.Error("no owners are written as null, which a patch ignores")
				}
			}
		})
	}
}
