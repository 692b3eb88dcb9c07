// Package admission completes and checks writes by what else the cluster holds: the
// rules that Kubernetes has as built-in admission plug-ins.
//
// A rule completes an object after its defaulting and before its validation, or checks a
// complete one, or both. Rules look into the memory of the store and decide in
// microseconds; none of them asks another program. What must be exact under concurrent
// writes (quotas) is not decided here but in the single writer, see Quotas.
package admission

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/kube/object"
)

// Verb of a write.
type Verb string

// Verbs that rules see.
const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
)

// Request is one write. It belongs to the caller, who does not use it concurrently.
type Request struct {
	// User and Groups of whoever writes.
	User   string
	Groups []string
	// Verb, and the kind that is written.
	Verb Verb
	Kind *kinds.Kind
	// Subresource of a status update, or what else is written of the object; empty for all of it.
	Subresource string
	// Namespace and Name of the object; the name may yet have to be generated.
	Namespace, Name string
	// Object is what will be stored; nil for deletes. Complete may change it.
	Object object.Object
	// Old is what is stored; nil for creates. Not to be changed.
	Old object.Object

	// Warnings for the client, which rules add to.
	Warnings []string
}

func (r *Request) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// forbidden refuses the write.
func (r *Request) forbidden(format string, args ...any) error {
	return apierrors.NewForbidden(r.Kind.GVR.GroupResource(), r.Name, fmt.Errorf(format, args...))
}

// Config says how strict the rules are. The zero value is what a cluster starts with.
type Config struct {
	// PodSecurity is the level of namespaces that name none themselves: privileged,
	// baseline or restricted; default baseline. kube-system is privileged unless it says
	// otherwise.
	PodSecurity string
	// IsMaster tells whether a machine of that name is on the roster of masters, whose
	// nodes may call themselves control plane. Nil means none is.
	IsMaster func(name string) bool
}

// rule is one plug-in; nil functions do nothing.
type rule struct {
	complete func(*Chain, *Request) error
	check    func(*Chain, *Request) error
}

// Chain is all rules in order. It is safe for concurrent use.
type Chain struct {
	objects  *objects
	security *podSecurity
	isMaster func(name string) bool
	rules    []rule
}

// New returns the rules over the store's objects.
func New(store Store, cfg Config) (*Chain, error) {
	security, err := newPodSecurity(cfg.PodSecurity)
	if err != nil {
		return nil, err
	}
	if cfg.IsMaster == nil {
		cfg.IsMaster = func(string) bool { return false }
	}
	return &Chain{
		objects: newObjects(store), security: security, isMaster: cfg.IsMaster,
		rules: []rule{
			{complete: defaultStorageClass},
			{complete: defaultIngressClass},
			{complete: protectStorage},
			{complete: serviceAccount},
			{complete: priority},
			{complete: runtimeClass},
			{complete: limitDefaults, check: limits},
			{check: singleDefaultPriority},
			{check: nodeRestriction},
			{check: certificateSubject},
			{check: checkPodSecurity},
		},
	}, nil
}

// Complete fills in what the cluster's objects say the client left out. Errors are
// *apierrors.StatusError.
func (c *Chain) Complete(r *Request) error {
	for i := range c.rules {
		if complete := c.rules[i].complete; complete != nil {
			if err := complete(c, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check refuses what is valid by itself, but not in this cluster or for this user.
// Errors are *apierrors.StatusError.
func (c *Chain) Check(r *Request) error {
	for i := range c.rules {
		if check := c.rules[i].check; check != nil {
			if err := check(c, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// created returns the object of a create in its Go type.
func created[T object.Object](r *Request) (T, bool) {
	var none T
	if r.Verb != Create || r.Subresource != "" {
		return none, false
	}
	obj, ok := r.Object.(T)
	return obj, ok
}
