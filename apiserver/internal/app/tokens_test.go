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

// leading returns a registry over a store that leads.
func leading(t *testing.T) *registry.Engine {
	t.Helper()
	_, engine := leadingStore(t)
	return engine
}

func leadingStore(t *testing.T) (*store.Store, *registry.Engine) {
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
	return s, engine
}

func createNamespace(t *testing.T, engine *registry.Engine) {
	t.Helper()
	if _, err := engine.Create(t.Context(), registry.Caller{User: "test"}, registry.Ref{Resource: object.KindOf[*corev1.Namespace]().GVR},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tokenNamespace}}, registry.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestTokensFulfilTheContract(t *testing.T) {
	certificatestest.TestTokenStore(t, func(t *testing.T) certificates.TokenStore {
		t.Helper()
		engine := leading(t)
		createNamespace(t, engine)
		return &tokens{registry: engine, caller: registry.Caller{User: "test"}}
	})
}

// The first token of a cluster may be asked for before its namespace is there.
func TestTokenWaitsForItsNamespace(t *testing.T) {
	engine := leading(t)
	store := &tokens{registry: engine, caller: registry.Caller{User: "test"}}
	made := make(chan error, 1)
	background := lifecycle.NewGroup(t.Context())
	background.Go(func(ctx context.Context) error {
		made <- store.Create(ctx, certificates.Record{ID: "early"})
		return nil
	})
	select {
	case err := <-made:
		t.Fatalf("kept without a namespace: %v", err)
	case <-time.After(2 * namespacePause): // it must still wait
	}
	createNamespace(t, engine)
	if err := <-made; err != nil {
		t.Error(err)
	}
	if err := background.Wait(); err != nil {
		t.Error(err)
	}
}
