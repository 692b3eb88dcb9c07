package registry_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/apiserver/internal/store"
)

func keyOfConfigMap(name string) store.Key {
	return store.Key{Resource: "configmaps", Namespace: "default", Name: name}
}

// What the index reads from the encoding is what the decoded pod says.
func TestIndexOfEncodedPods(t *testing.T) {
	index := registry.NewIndexer(nil)
	var podKind *registry.Kind
	for _, kind := range kinds.Default() {
		if kind.GVR.Resource == "pods" {
			podKind = kind
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z0-9.-]{0,20}`)
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: text.Draw(t, "name"), Namespace: text.Draw(t, "namespace"), UID: "u",
				Labels: rapid.MapOfN(text, text, 0, 5).Draw(t, "labels"),
			},
			Spec: corev1.PodSpec{
				NodeName: text.Draw(t, "node"), HostNetwork: rapid.Bool().Draw(t, "host"), ServiceAccountName: text.Draw(t, "account"),
				SchedulerName: "s", RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: text.Draw(t, "image")}},
			},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: text.Draw(t, "ip"), NominatedNodeName: text.Draw(t, "nominated")},
		}
		if rapid.Bool().Draw(t, "deleting") {
			now := metav1.Now()
			p.DeletionTimestamp = &now
		}
		value, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := index(store.Key{Resource: "pods", Namespace: p.Namespace, Name: p.Name}, store.AppendVersion(slices.Clip(value), 7))
		if err != nil {
			t.Fatal(err)
		}
		if got.UID != p.UID || got.Deleting != (p.DeletionTimestamp != nil) || !slices.Equal(got.Labels, store.AttributesOf(p.Labels)) || !slices.Equal(got.Fields, store.AttributesOf(podKind.Fields(p))) {
			t.Fatalf("index %+v of %+v", got, p)
		}
		meta, err := kinds.ReadWireMeta(store.AppendVersion(slices.Clip(value), 7))
		if err != nil || meta.ResourceVersion != "7" || meta.Name != p.Name || meta.Namespace != p.Namespace {
			t.Fatalf("%+v %v", meta, err)
		}
	})
}
