package registry

import (
	"context"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/admission"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/platform/kube/object"
)

// Access knows what roles and bindings grant. Its methods answer from memory and do not
// block, since the single writer calls them. Safe for concurrent use.
type Access interface {
	// Grant returns nil, or a StatusError if a user may not store a role or binding because it
	// grants more than the user holds, nor approve or sign a request for a certificate for its
	// signer. old is nil for a new one.
	Grant(user string, groups []string, obj, old object.Object) error
	// Create returns nil, or a Forbidden StatusError if a user may not create an object. The
	// doors ask about what a request says; this is asked when an apply turns out to create.
	Create(user string, groups []string, resource schema.GroupResource, namespace, name string) error
	// Complete gives a ClusterRole with an aggregation rule its rules.
	Complete(obj object.Object)
	// Outdated names the stored ClusterRoles that Complete would change.
	Outdated() []string
}

// TokenIssuer makes tokens of service accounts.
type TokenIssuer interface {
	// Request completes a request for a token; errors are StatusErrors.
	Request(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) error
	// Permanent makes a token for a secret that is to hold it, and returns the account's uid.
	// It answers from memory.
	Permanent(namespace, account, secret string, secretUID types.UID) (token string, accountUID types.UID, err error)
}

const tokenSubresource = "token"

// systemUser makes what the cluster itself makes.
const systemUser = "system:apiserver"

const clusterRolesResource = "clusterroles." + rbacv1.GroupName

// guard makes a plan ask, when it is decided, whether the caller may grant what it stores.
// What was prepared earlier may rest on rights that are gone by then.
func (e *Engine) guard(caller Caller, kind *Kind, p *plan) {
	if e.cfg.Access == nil || kind.GVR.Group != rbacv1.GroupName && kind.GVR.Group != certificatesv1.GroupName {
		return
	}
	p.guard = func(current *store.Record, obj object.Object) error {
		var old object.Object
		if current != nil {
			var err error
			if old, err = decode(kind, current); err != nil {
				return err
			}
		}
		return e.cfg.Access.Grant(caller.User, caller.Groups, obj, old)
	}
}

// fill completes an aggregated role, or a secret with an account's token, that is being written.
func (e *Engine) fill(obj object.Object) {
	switch obj := obj.(type) {
	case *rbacv1.ClusterRole:
		if e.cfg.Access != nil {
			e.cfg.Access.Complete(obj)
		}
	case *corev1.Secret:
		if obj.Type == corev1.SecretTypeServiceAccountToken && e.cfg.Tokens != nil {
			e.fillToken(obj)
		}
	}
}

// fillToken gives a secret that is for a service account's token one, if it has none and the
// account is there. A loop of the controller-manager has secrets written again whose account
// comes later, and removes those whose account is gone.
func (e *Engine) fillToken(secret *corev1.Secret) {
	if secret.DeletionTimestamp != nil || len(secret.Data[corev1.ServiceAccountTokenKey]) > 0 {
		return
	}
	account := secret.Annotations[corev1.ServiceAccountNameKey] // without a name there is none
	token, uid, err := e.cfg.Tokens.Permanent(secret.Namespace, account, secret.Name, secret.UID)
	if known := secret.Annotations[corev1.ServiceAccountUIDKey]; err != nil || known != "" && known != string(uid) {
		return // of no account, or of one that is gone
	}
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	secret.Annotations[corev1.ServiceAccountUIDKey] = string(uid)
	secret.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	secret.Data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	if len(e.cfg.RootCA) > 0 {
		secret.Data[corev1.ServiceAccountRootCAKey] = e.cfg.RootCA
	}
}

// aggregate stores the rules of aggregated roles where they have changed. Whoever writes a
// ClusterRole does this before it answers, so that readers see both; Bootstrap repeats it, in
// case that a master ended in between. What is granted does not depend on it.
func (e *Engine) aggregate(ctx context.Context) error {
	names := e.cfg.Access.Outdated()
	if len(names) == 0 {
		return nil
	}
	kind, err := e.Kind(rbacv1.SchemeGroupVersion.WithResource("clusterroles"))
	if err != nil {
		return err
	}
	group := store.Group{User: systemUser}
	for _, name := range names {
		group.Writes = append(group.Writes, store.Write{Key: keyOf(kind, "", name), Decide: func(current *store.Record) (store.Change, error) {
			if current == nil {
				return store.Change{Keep: true}, nil
			}
			obj, err := decode(kind, current)
			if err != nil {
				return store.Change{}, err
			}
			e.cfg.Access.Complete(obj)
			change, err := encode(kind, obj)
			if err == nil && sameEncoding(current, change.Value) {
				change = store.Change{Keep: true}
			}
			return change, err
		}})
	}
	if _, err := e.store.Commit(ctx, group); err != nil {
		return fmt.Errorf("aggregate roles: %w", err)
	}
	return nil
}

// token answers a request for a token of a service account. Nothing is stored: every
// master can do it.
func (e *Engine) token(ctx context.Context, caller Caller, op Operation, d *decisions) (OperationResult, error) {
	kind, err := e.resolve(op.Ref, true)
	if err != nil {
		return OperationResult{}, err
	}
	request, ok := op.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return OperationResult{}, checkType(kind, authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), op.Object)
	}
	if err := place(kind, op.Ref, request); err != nil {
		return OperationResult{}, err
	}
	if err := d.decide(body(d.request(admissionv1.Create, kind, op.Ref.Subresource, request, nil), authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"))); err != nil {
		return OperationResult{}, err
	}
	if e.rules != nil {
		if err := e.rules.Check(&admission.Request{
			User: caller.User, Groups: caller.Groups, Verb: admission.Create, Kind: kind, Subresource: op.Ref.Subresource,
			Namespace: op.Ref.Namespace, Name: op.Ref.Name, Object: request,
		}); err != nil {
			return OperationResult{}, err
		}
	}
	if e.cfg.Tokens == nil {
		return OperationResult{}, apierrors.NewServiceUnavailable("this master issues no tokens")
	}
	if err := e.store.Fresh(ctx); err != nil {
		return OperationResult{}, statusError(err)
	}
	if err := e.cfg.Tokens.Request(ctx, op.Ref.Namespace, op.Ref.Name, request); err != nil {
		return OperationResult{}, err
	}
	if dryRun(op) {
		request.Status.Token = ""
	}
	body, err := object.KindOfObject(request)
	request.SetGroupVersionKind(body.GVK)
	return OperationResult{Object: request, Kind: body}, statusError(err)
}
