package rest

import (
	"net/http"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"kijabi.dev/apiserver/internal/openapi"
	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/reviews"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

func structType(obj runtime.Object) reflect.Type { return reflect.TypeOf(obj).Elem() }

// newDocuments documents the served kinds and the reviews. Streams other than proxies are
// left out: no client reads of them in OpenAPI.
func newDocuments(served []*registry.Kind) *openapi.Documents {
	return openapi.New(openapi.Config{
		Version: lifecycle.KubernetesVersion, Resources: resourcesOf(served),
		Extra: []reflect.Type{reflect.TypeFor[metav1.Status](), reflect.TypeFor[metav1.DeleteOptions]()},
	})
}

// resourcesOf lists what is to be documented.
func resourcesOf(served []*registry.Kind) []openapi.Resource {
	var resources []openapi.Resource
	for _, k := range served {
		if k.Custom != nil {
			resources = append(resources, customResources(k)...)
			continue
		}
		main := openapi.Resource{GVR: k.GVR, GVK: k.GVK, Namespaced: k.Namespaced, Verbs: k.Verbs, Type: structType(k.New())}
		if k.NewList != nil {
			main.ListType = structType(k.NewList())
		}
		resources = append(resources, main)
		for _, sub := range k.Subresources {
			if sub.Name == "proxy" {
				resources = append(resources, openapi.Resource{
					GVR: k.GVR, GVK: k.GVK.GroupVersion().WithKind(streamOptionsKind(k.GVK.Kind, sub.Name)), Subresource: sub.Name, Parent: k.GVK.Kind, Namespaced: k.Namespaced,
				})
			}
			body, ok := object.KindFor(sub.GVK)
			if !ok || sub.Stream {
				continue
			}
			resources = append(resources, openapi.Resource{
				GVR: k.GVR, GVK: sub.GVK, Subresource: sub.Name, Parent: k.GVK.Kind, Namespaced: k.Namespaced, Verbs: sub.Verbs, Type: structType(body.New()),
			})
		}
	}
	for _, k := range reviews.Kinds() {
		resources = append(resources, openapi.Resource{
			GVR: k.GVR, GVK: k.GVK, Namespaced: k.Namespaced, Verbs: []string{"create"}, Type: structType(k.New()),
		})
	}
	return resources
}

// serveOpenAPI answers /openapi/v2, /openapi/v3 and /openapi/v3/GROUPVERSION.
func (s *Server) serveOpenAPI(w http.ResponseWriter, r *http.Request, path string) {
	s.catchUp(r)
	documents := s.view().documents
	switch {
	case path == "/openapi/v3":
		index, err := documents.IndexV3()
		if err != nil {
			s.fail(w, r, err)
			return
		}
		writeBody(w, mediaJSON, http.StatusOK, index)
	case path == "/openapi/v2":
		protobuf := wantsProtobuf(r, openapi.MediaTypeProtobufV2)
		doc, err := documents.V2(protobuf)
		s.serveDocument(w, r, doc, err, protobuf, openapi.MediaTypeProtobufV2)
	case strings.HasPrefix(path, "/openapi/v3/"):
		protobuf := wantsProtobuf(r, openapi.MediaTypeProtobufV3)
		doc, err := documents.V3(strings.TrimPrefix(path, "/openapi/v3/"), protobuf)
		s.serveDocument(w, r, doc, err, protobuf, openapi.MediaTypeProtobufV3)
	default:
		s.fail(w, r, notFound())
	}
}

// wantsProtobuf reads the Accept header leniently: the '@' in these media types is not
// allowed there, so they do not parse.
func wantsProtobuf(r *http.Request, mediaType string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		switch media {
		case mediaType, strings.Replace(mediaType, ".v1.0+", "@v1.0+", 1):
			return true
		case mediaJSON, "*/*":
			return false
		}
	}
	return false
}

func (s *Server) serveDocument(w http.ResponseWriter, r *http.Request, doc *openapi.Document, err error, protobuf bool, protobufType string) {
	switch {
	case err != nil:
		s.fail(w, r, err)
		return
	case doc == nil:
		s.fail(w, r, notFound())
		return
	}
	etag := `"` + doc.ETag + `"`
	hash := r.URL.Query().Get("hash")
	if hash != "" && hash != doc.ETag {
		// The client has an old index: send it to the document of today.
		http.Redirect(w, r, r.URL.Path+"?hash="+doc.ETag, http.StatusMovedPermanently)
		return
	}
	header := w.Header()
	header.Set("ETag", etag)
	header.Set("Vary", "Accept, Accept-Encoding")
	if hash != "" {
		header.Set("Cache-Control", "public, immutable")
		header.Set("Expires", s.cfg.Clock.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	} else {
		header.Set("Cache-Control", "no-cache, private")
	}
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Type", mediaJSON)
	if protobuf {
		header.Set("Content-Type", protobufType)
	}
	if newCompressor(w, r).accepts {
		header.Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(doc.Gzip())
		return
	}
	w.WriteHeader(http.StatusOK)
	_, err = doc.WriteTo(w)
	abortOn(err)
}
