package rest

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
)

// review is a question that the door answers by itself: who am I, may I.
type review struct {
	gvk        schema.GroupVersionKind
	resource   string
	namespaced bool
	empty      func() runtime.Object
}

func reviews() []review {
	authorization, authentication := authorizationv1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion
	return []review{
		{authentication.WithKind("SelfSubjectReview"), "selfsubjectreviews", false, func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }},
		{authorization.WithKind("LocalSubjectAccessReview"), "localsubjectaccessreviews", true, func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }},
		{authorization.WithKind("SelfSubjectAccessReview"), "selfsubjectaccessreviews", false, func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }},
		{authorization.WithKind("SelfSubjectRulesReview"), "selfsubjectrulesreviews", false, func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }},
		{authorization.WithKind("SubjectAccessReview"), "subjectaccessreviews", false, func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }},
	}
}

func findReview(gv schema.GroupVersion, resource string) (review, bool) {
	for _, one := range reviews() {
		if one.gvk.GroupVersion() == gv && one.resource == resource {
			return one, true
		}
	}
	return review{}, false
}

func isReview(gv schema.GroupVersion, resource string) bool {
	_, ok := findReview(gv, resource)
	return ok
}

func (s *Server) serveReview(w http.ResponseWriter, r *http.Request, caller registry.Caller, gv schema.GroupVersion, segments []string) {
	resource, namespace := segments[0], ""
	if len(segments) == 3 {
		namespace, resource = segments[1], segments[2]
	}
	kind, _ := findReview(gv, resource)
	if kind.namespaced != (namespace != "") {
		s.fail(w, r, notFound())
		return
	}
	answer, err := s.review(w, r, caller, kind, namespace)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.writeObject(w, plainFormat(r), http.StatusCreated, answer)
}

func (s *Server) review(w http.ResponseWriter, r *http.Request, caller registry.Caller, kind review, namespace string) (runtime.Object, error) {
	enc, err := contentEncoding(r)
	if err != nil {
		return nil, err
	}
	data, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	opts, err := writeOptions(r, "CreateOptions")
	if err != nil {
		return nil, err
	}
	obj, warnings, err := s.codec.decode(data, enc, kind.gvk, opts.FieldValidation)
	if err != nil {
		return nil, err
	}
	warn(w, warnings)
	ctx := r.Context()
	switch ask := obj.(type) {
	case *authenticationv1.SelfSubjectReview:
		ask.Status.UserInfo = authenticationv1.UserInfo{Username: caller.User, Groups: caller.Groups}
	case *authorizationv1.SelfSubjectAccessReview:
		ask.Status, err = s.access(ctx, caller, ask.Spec.ResourceAttributes, ask.Spec.NonResourceAttributes)
	case *authorizationv1.SelfSubjectRulesReview:
		if ask.Spec.Namespace == "" {
			return nil, apierrors.NewBadRequest("no namespace on request")
		}
		ask.Status, err = s.rules(ctx, caller, ask.Spec.Namespace)
	case *authorizationv1.SubjectAccessReview:
		ask.Status, err = s.accessOf(ctx, caller, kind, "", ask.Spec)
	case *authorizationv1.LocalSubjectAccessReview:
		if a := ask.Spec.ResourceAttributes; a == nil || a.Namespace != namespace {
			return nil, apierrors.NewBadRequest("spec.resourceAttributes.namespace must match the namespace on the URL")
		}
		ask.Status, err = s.accessOf(ctx, caller, kind, namespace, ask.Spec)
	default:
		err = fmt.Errorf("no answer to %T", obj)
	}
	return obj, err
}

// rules lists what a caller may do in a namespace, found out by asking. Rights to
// single objects, such as a node's, do not show.
func (s *Server) rules(ctx context.Context, caller registry.Caller, namespace string) (authorizationv1.SubjectRulesReviewStatus, error) {
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{},
		NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: openPaths()}},
	}
	may := func(verb string, gvr schema.GroupVersionResource, in string) (bool, error) {
		err := s.cfg.Authorizer.Authorize(ctx, caller, verb, gvr, "", in, "")
		if apierrors.IsForbidden(err) {
			return false, nil
		}
		return err == nil, err
	}
	everything := []string{"*"}
	all, err := may("*", schema.GroupVersionResource{Group: "*", Resource: "*"}, namespace)
	if err != nil {
		return status, err
	}
	if all {
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{Verbs: everything, APIGroups: everything, Resources: everything})
		return status, nil
	}
	status.Incomplete = true
	for _, kind := range s.cfg.Registry.Kinds() {
		in := namespace
		if !kind.Namespaced {
			in = ""
		}
		rule := authorizationv1.ResourceRule{APIGroups: []string{kind.GVR.Group}, Resources: []string{kind.GVR.Resource}}
		for _, verb := range kind.Verbs {
			yes, err := may(verb, kind.GVR, in)
			if err != nil {
				return status, err
			}
			if yes {
				rule.Verbs = append(rule.Verbs, verb)
			}
		}
		if len(rule.Verbs) > 0 {
			status.ResourceRules = append(status.ResourceRules, rule)
		}
	}
	return status, nil
}

// accessOf answers about somebody else, which needs the right to create such reviews.
func (s *Server) accessOf(ctx context.Context, caller registry.Caller, kind review, namespace string, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
	if err := s.cfg.Authorizer.Authorize(ctx, caller, "create", kind.gvk.GroupVersion().WithResource(kind.resource), "", namespace, ""); err != nil {
		return authorizationv1.SubjectAccessReviewStatus{}, err
	}
	if spec.User == "" && len(spec.Groups) == 0 {
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewBadRequest("at least one of spec.user and spec.groups must be specified")
	}
	subject := registry.Caller{User: spec.User, Groups: spec.Groups, RequestID: caller.RequestID}
	return s.access(ctx, subject, spec.ResourceAttributes, spec.NonResourceAttributes)
}

// access asks the authorizer on a caller's behalf.
func (s *Server) access(ctx context.Context, caller registry.Caller, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	if (resource == nil) == (path == nil) {
		return authorizationv1.SubjectAccessReviewStatus{}, apierrors.NewBadRequest("exactly one of spec.resourceAttributes and spec.nonResourceAttributes must be specified")
	}
	if path != nil {
		allowed := path.Verb == "get" && s.knowsPath(path.Path)
		return authorizationv1.SubjectAccessReviewStatus{Allowed: allowed}, nil
	}
	gvr := schema.GroupVersionResource{Group: resource.Group, Version: resource.Version, Resource: resource.Resource}
	if gvr.Version == "*" {
		gvr.Version = ""
	}
	if kind, err := s.cfg.Registry.Kind(gvr); err == nil {
		gvr = kind.GVR
	}
	err := s.cfg.Authorizer.Authorize(ctx, caller, resource.Verb, gvr, resource.Subresource, resource.Namespace, resource.Name)
	switch {
	case err == nil:
		return authorizationv1.SubjectAccessReviewStatus{Allowed: true}, nil
	case apierrors.IsForbidden(err):
		return authorizationv1.SubjectAccessReviewStatus{Reason: err.Error()}, nil
	default:
		return authorizationv1.SubjectAccessReviewStatus{}, fmt.Errorf("authorize %s %s: %w", resource.Verb, gvr.Resource, err)
	}
}

// knowsPath tells whether a path that is no resource is open to authenticated callers.
func (s *Server) knowsPath(path string) bool {
	for _, root := range roots() {
		if path == root || strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	return path == "/"
}

func roots() []string {
	return []string{"/api", "/apis", "/openapi", "/version", "/livez", "/readyz", "/healthz"}
}

// openPaths are knowsPath's as rules write them.
func openPaths() []string {
	paths := []string{"/"}
	for _, root := range roots() {
		paths = append(paths, root, root+"/*")
	}
	return paths
}

// reviewResource describes a review for discovery.
func (k review) apiResource() metav1.APIResource {
	return metav1.APIResource{Name: k.resource, SingularName: strings.TrimSuffix(k.resource, "s"), Namespaced: k.namespaced, Kind: k.gvk.Kind, Verbs: metav1.Verbs{"create"}}
}
