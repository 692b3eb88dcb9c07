package object_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/platform/kube/object"
)

func TestAnyCarriesTheMessageName(t *testing.T) {
	in := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}}
	packed, err := object.Pack(in)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := packed.GetTypeUrl(), "type.googleapis.com/k8s.io.api.apps.v1.Deployment"; got != want {
		t.Errorf("type url %q, want %q", got, want)
	}
	out, err := object.Unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	in.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
	if diff := cmp.Diff(in, out); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownTypeIsNamed(t *testing.T) {
	packed, err := object.Pack(&corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	packed.TypeUrl = "type.googleapis.com/k8s.io.api.core.v1.Nothing"
	if _, err := object.Unpack(packed); err == nil || err.Error() != `decode object: unknown type "type.googleapis.com/k8s.io.api.core.v1.Nothing"` {
		t.Errorf("error %v", err)
	}
}
