package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	accessv1pb "kijabi.dev/proto/gen/kijabi/access/v1"
)

// accessTable maps a full method, /package.Service/Method, to its rule.
type accessTable map[string]*accessv1pb.Access

// newAccessTable finds the rule of every registered method. A method without one
// is an error: what nobody decided about must not be served.
func newAccessTable(services map[string]grpc.ServiceInfo) (accessTable, error) {
	table := accessTable{}
	var missing []string
	for service, info := range services {
		for _, method := range info.Methods {
			full := "/" + service + "/" + method.Name
			rule := AccessOf(full)
			if rule == nil {
				missing = append(missing, full)
				continue
			}
			table[full] = rule
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, fmt.Errorf("methods without an access rule: %s; set option (kijabi.access.v1.access) in their proto",
			strings.Join(missing, ", "))
	}
	return table, nil
}

// AccessOf returns the access rule of a full method, nil if it has none. Health
// is open to all and reflection to every authenticated caller; their protos are not ours.
func AccessOf(fullMethod string) *accessv1pb.Access {
	service, method, ok := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	if !ok {
		return nil
	}
	if service == grpc_health_v1.Health_ServiceDesc.ServiceName {
		return &accessv1pb.Access{Anonymous: true}
	}
	if isReflection(service) {
		return &accessv1pb.Access{Authenticated: true}
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	descriptor, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	m := descriptor.Methods().ByName(protoreflect.Name(method))
	if m == nil || !proto.HasExtension(m.Options(), accessv1pb.E_Access) {
		return nil
	}
	rule, _ := proto.GetExtension(m.Options(), accessv1pb.E_Access).(*accessv1pb.Access)
	if rule == nil || !rule.GetAnonymous() && !rule.GetAuthenticated() && len(rule.GetRoles()) == 0 {
		return nil // an empty rule admits nobody: surely an oversight
	}
	return rule
}

func isReflection(service string) bool {
	return service == "grpc.reflection.v1.ServerReflection" || service == "grpc.reflection.v1alpha.ServerReflection"
}

// public tells whether a method's answer is the same for whoever may call it: those of health
// and reflection.
func public(fullMethod string) bool {
	service, _, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return service == grpc_health_v1.Health_ServiceDesc.ServiceName || isReflection(service)
}

// admit applies a rule. A forwarded request is the forwarding apiserver's
// responsibility: it has applied the rule to the original caller, and the handler
// authorizes that caller again.
func admit(rule *accessv1pb.Access, caller, transport Caller, fullMethod string) error {
	switch {
	case rule == nil:
		return forbidden(caller, fullMethod, "the method has no access rule")
	case rule.GetAnonymous(), caller.Forwarded:
		return nil
	case transport.Name == "":
		return apierrors.NewUnauthorized(fullMethod +
			" needs an identity: present a client certificate of this cluster or a bearer token")
	case rule.GetAuthenticated(), transport.HasRole(rule.GetRoles()...):
		return nil
	default:
		return forbidden(caller, fullMethod, "it is open to the roles "+strings.Join(rule.GetRoles(), ", "))
	}
}

func forbidden(caller Caller, fullMethod, reason string) error {
	name := caller.Name
	if name == "" {
		name = "system:anonymous"
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: 403, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf("%s may not call %s: %s; its roles are [%s]",
			name, fullMethod, reason, strings.Join(caller.Roles, ", ")),
	}}
}

// AuthorizeFunc decides about a call beyond the access rule.
type AuthorizeFunc = func(ctx context.Context, caller Caller, fullMethod string, access *accessv1pb.Access) error

// AuthenticateFunc identifies a caller that presented no certificate, by a bearer
// token for instance. It returns false for a caller that stays anonymous and an
// error for credentials that are wrong. Roles must be set by it: groups of a token
// give none by themselves.
type AuthenticateFunc = func(ctx context.Context) (Caller, bool, error)
