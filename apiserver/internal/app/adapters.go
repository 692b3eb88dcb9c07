package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/addons"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/certificates"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
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

// nodePods tells the authorizer what pods of a node use, from the store's memory.
type nodePods struct{ store *store.Store }

var _ authz.Pods = nodePods{}

const podsResource = "pods"

func (p nodePods) NodeOf(namespace, name string) string {
	record, ok := p.store.Get(store.Key{Resource: podsResource, Namespace: namespace, Name: name})
	if !ok {
		return ""
	}
	return record.Index.Fields.Get("spec.nodeName")
}

func (p nodePods) UsedOn(node, resource, namespace, name string) bool {
	kind := object.KindOf[*corev1.Pod]()
	for _, record := range p.store.Snapshot(podsResource, namespace).Records {
		if record.Index.Fields.Get("spec.nodeName") != node {
			continue
		}
		obj, err := object.Decode(kind, record.Value)
		if err != nil {
			continue // unreadable: it grants nothing
		}
		if uses(&obj.(*corev1.Pod).Spec, resource, name) {
			return true
		}
	}
	return false
}

// uses says whether a pod names a ConfigMap, Secret or ServiceAccount.
func uses(spec *corev1.PodSpec, resource, name string) bool {
	if resource == "serviceaccounts" {
		return spec.ServiceAccountName == name
	}
	secrets := resource == "secrets"
	if secrets && slices.ContainsFunc(spec.ImagePullSecrets, func(r corev1.LocalObjectReference) bool { return r.Name == name }) {
		return true
	}
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		switch {
		case secrets && v.Secret != nil && v.Secret.SecretName == name,
			!secrets && v.ConfigMap != nil && v.ConfigMap.Name == name:
			return true
		case v.Projected != nil:
			for _, source := range v.Projected.Sources {
				if secrets && source.Secret != nil && source.Secret.Name == name || !secrets && source.ConfigMap != nil && source.ConfigMap.Name == name {
					return true
				}
			}
		}
	}
	return slices.ContainsFunc(spec.InitContainers, func(c corev1.Container) bool { return usedInEnv(&c, secrets, name) }) ||
		slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool { return usedInEnv(&c, secrets, name) })
}

func usedInEnv(c *corev1.Container, secrets bool, name string) bool {
	for _, from := range c.EnvFrom {
		if secrets && from.SecretRef != nil && from.SecretRef.Name == name || !secrets && from.ConfigMapRef != nil && from.ConfigMapRef.Name == name {
			return true
		}
	}
	for _, env := range c.Env {
		if env.ValueFrom == nil {
			continue
		}
		if secrets && env.ValueFrom.SecretKeyRef != nil && env.ValueFrom.SecretKeyRef.Name == name ||
			!secrets && env.ValueFrom.ConfigMapKeyRef != nil && env.ValueFrom.ConfigMapKeyRef.Name == name {
			return true
		}
	}
	return false
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
