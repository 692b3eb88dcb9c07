package rpc_test

import (
	"context"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// A call made as another is never performed with the caller's own rights: a server that has no
// way to decide about it refuses it, and so does the access rule of who makes it.
func TestImpersonation(t *testing.T) {
	ca := pkitest.NewCA(t)
	var seen atomic.Pointer[rpc.Caller]
	svc := &service{get: func(ctx context.Context, _ *objectv1pb.GetRequest) (*objectv1pb.GetResponse, error) {
		caller, _ := rpc.CallerFrom(ctx)
		seen.Store(&caller)
		return &objectv1pb.GetResponse{}, nil
	}}
	plain := start(t, ca, svc)
	deciding := start(t, ca, svc, func(cfg *rpc.ServerConfig) {
		cfg.Impersonate = func(_ context.Context, caller rpc.Caller, method string) (rpc.Caller, error) {
			if caller.Name != "kubernetes-admin" {
				return caller, apierrors.NewUnauthorized(method)
			}
			return rpc.Caller{Name: "eve", Impersonator: &caller}, nil
		}
	})
	as := rpc.Impersonation{User: "eve"}
	get := func(address, component string, as *rpc.Impersonation) error {
		seen.Store(nil)
		conn := dial(t, ca, address, component, "m1")
		objects := objectv1pb.NewObjectServiceClient(conn)
		if as != nil {
			objects = objectv1pb.NewObjectServiceClient(rpc.As(conn, *as))
		}
		_, err := objects.Get(within(t), &objectv1pb.GetRequest{})
		return err
	}
	for _, part := range []rpc.Impersonation{as, {UID: "1"}, {Groups: []string{"g"}}, {Extra: map[string][]string{"a": {"b"}}}} {
		if err := get(plain.address, pki.ComponentAdmin, &part); !apierrors.IsBadRequest(err) || seen.Load() != nil {
			t.Errorf("%+v without a way to decide: %v, performed as %+v", part, err, seen.Load())
		}
	}
	if err := get(deciding.address, pki.ComponentAdmin, &as); err != nil || seen.Load().Name != "eve" || seen.Load().Impersonator.Name != "kubernetes-admin" {
		t.Errorf("%v, performed as %+v", err, seen.Load())
	}
	if err := get(deciding.address, pki.ComponentKubelet, &as); !apierrors.IsUnauthorized(err) || seen.Load() != nil {
		t.Errorf("refused: %v, performed as %+v", err, seen.Load())
	}
	if err := get(deciding.address, pki.ComponentAdmin, nil); err != nil || seen.Load().Name != "kubernetes-admin" || seen.Load().Impersonator != nil {
		t.Errorf("%v, performed as %+v", err, seen.Load())
	}
	// The rule of a method applies to who calls, whoever it is called as.
	conn := dial(t, ca, deciding.address, pki.ComponentKubelet, "m1")
	_, err := mastersv1pb.NewMastersServiceClient(rpc.As(conn, rpc.Impersonation{User: "kubernetes-admin", Groups: []string{"system:masters"}})).Transfer(within(t), &mastersv1pb.TransferRequest{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a kubelet transfers as an administrator: %v", err)
	}
}
