package app

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/apiserver/internal/certificates"
	"kijabi.dev/apiserver/internal/certificates/certificatestest"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

func TestTokensFulfilTheContract(t *testing.T) {
	certificatestest.TestTokenStore(t, func(t *testing.T) certificates.TokenStore {
		t.Helper()
		s, err := store.New(store.Config{Name: "m1", Backend: memory.New(), Indexer: registry.NewIndexer(nil), Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		engine, err := registry.New(registry.Config{Store: s, Network: configv1.DefaultNetwork(), Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		group := lifecycle.NewGroup(context.Background())
		group.Go(s.Run)
		group.Go(s.Lead)
		t.Cleanup(func() {
			group.Cancel()
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
		})
		for deadline := time.Now().Add(10 * time.Second); !s.Term().Leading; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the store does not lead")
			}
		}
		caller := registry.Caller{User: "test"}
		if _, err := engine.Create(t.Context(), caller, registry.Ref{Resource: object.KindOf[*corev1.Namespace]().GVR},
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tokenNamespace}}, registry.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		return &tokens{registry: engine, caller: caller}
	})
}
