package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/addons"
	"kijabi.dev/apiserver/internal/certificates"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
)

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// refresh brings the memory of a master that does not lead up to date. A leader's is always.
func refresh(objects *store.Store) func(context.Context) bool {
	return func(ctx context.Context) bool {
		return !objects.Term().Leading && objects.Fresh(ctx) == nil
	}
}

// prove brings memory up to date for a read; see store.Prove.
func prove(objects *store.Store) func(context.Context) (context.Context, error) {
	return func(ctx context.Context) (context.Context, error) {
		proven, err := objects.Prove(ctx)
		if err != nil && ctx.Err() == nil {
			err = apierrors.NewServiceUnavailable(err.Error())
		}
		return proven, err
	}
}

// authority is the cluster's CA.
type authority struct{ ca *pki.CA }

var _ certificates.Authority = authority{}

func (a authority) CA() *pki.CA    { return a.ca }
func (a authority) Bundle() []byte { return a.ca.CertificatePEM() }

// roster tells which machines are masters.
type roster struct{ masters *masters.Masters }

var _ certificates.Machines = roster{}

func (r roster) IsMaster(_ context.Context, name string) (bool, error) {
	return slices.ContainsFunc(r.masters.Members(), func(m masters.Member) bool { return m.Name == name }), nil
}

// renewable lets a machine's programs renew their certificates only for as long as
// the machine belongs to the cluster: on the roster if a master, else with a Node.
func renewable(objects *store.Store, group *masters.Masters) func(context.Context, rpc.Caller) error {
	return func(ctx context.Context, identity rpc.Caller) error {
		if identity.Machine == "" {
			return nil // a user
		}
		if master, err := (roster{group}).IsMaster(ctx, identity.Machine); err != nil || master {
			return err
		}
		if err := objects.Fresh(ctx); err != nil {
			return err
		}
		if _, ok := objects.Get(store.Key{Resource: "nodes", Name: identity.Machine}); ok {
			return nil
		}
		return apierrors.NewForbidden(schema.GroupResource{Resource: "certificates"}, identity.Name,
			fmt.Errorf("machine %s no longer belongs to the cluster: run 'kijabi reset' on it and join it again", identity.Machine))
	}
}

// firstEnd is when the first of the certificates in use ends.
func firstEnd(identities ...*pki.Identity) time.Time {
	var first time.Time
	for _, id := range identities {
		if end := id.Leaf().NotAfter; first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

// keepAddons keeps the objects of manifests applied, if there is a directory for them.
func keepAddons(cfg *configv1.APIServerConfiguration, group *masters.Masters, of addons.Config) lifecycle.Task {
	if cfg.ManifestsDir == "" {
		return func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}
	}
	of.Dir, of.Self = cfg.ManifestsDir, cfg.NodeName
	of.Masters = func() []string {
		var names []string
		for _, member := range group.Members() {
			names = append(names, member.Name)
		}
		return names
	}
	return addons.New(of).Run
}
