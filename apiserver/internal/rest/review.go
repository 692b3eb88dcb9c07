package rest

import (
	"fmt"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/reviews"
	"kijabi.dev/platform/kube/object"
)

// reviewAt finds the kind of question that a path names, and the namespace it is asked in.
func reviewAt(gv schema.GroupVersion, segments []string) (kind object.Kind, namespace string, ok bool) {
	switch {
	case len(segments) == 1:
		kind, ok = reviews.KindOf(gv.WithResource(segments[0]))
	case len(segments) == 3 && segments[0] == "namespaces":
		namespace = segments[1]
		kind, ok = reviews.KindOf(gv.WithResource(segments[2]))
	}
	return kind, namespace, ok
}

func (s *Server) serveReview(w http.ResponseWriter, r *http.Request, caller registry.Caller, kind object.Kind, namespace string) {
	if kind.Namespaced != (namespace != "") {
		s.fail(w, r, notFound())
		return
	}
	question, err := s.question(w, r, kind)
	if err == nil {
		err = hideFromStrangers(caller, s.reviews.Answer(r.Context(), caller, namespace, question))
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.writeObject(w, plainFormat(r), http.StatusCreated, question)
}

// question decodes the body of a review.
func (s *Server) question(w http.ResponseWriter, r *http.Request, kind object.Kind) (object.Object, error) {
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
	decoded, warnings, err := s.codec.decode(data, enc, kind.GVK, opts.FieldValidation)
	if err != nil {
		return nil, err
	}
	warn(w, warnings)
	question, ok := decoded.(object.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object", decoded)
	}
	return question, nil
}

// reviewResource describes a review for discovery.
func reviewResource(k object.Kind) metav1.APIResource {
	return metav1.APIResource{
		Name: k.GVR.Resource, SingularName: strings.TrimSuffix(k.GVR.Resource, "s"), Namespaced: k.Namespaced,
		Kind: k.GVK.Kind, Verbs: metav1.Verbs{"create"},
	}
}
