// Package openapi documents the served kinds as OpenAPI v3 and v2.
//
// Documents are built by reflection from the Go types on first demand, compressed,
// and only the compressed form is kept. What reflection cannot see (list map keys,
// defaults, enumerations) comes from hints.go, generated from upstream's comments.
package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:generate go run ./gentable

// Media types of the documents. Clients ask with '@' before the version; answers carry
// a dot instead, because '@' may not stand in a media type and clients parse answers strictly.
const (
	MediaTypeJSON       = "application/json"
	MediaTypeProtobufV2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	MediaTypeProtobufV3 = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// Resource is what the documents say of one resource or subresource.
type Resource struct {
	GVR schema.GroupVersionResource
	// GVK of the bodies; its group may differ from GVR's (scale).
	GVK schema.GroupVersionKind
	// Subresource is empty for the resource itself. "proxy" passes any method and path on; its
	// GVK is that of its options, and it has no Type.
	Subresource string
	// Parent is the kind that a subresource belongs to, which may differ from that of its body.
	Parent     string
	Namespaced bool
	// Verbs as in discovery: get, list, watch, create, update, patch, delete, deletecollection.
	Verbs []string
	// Type and ListType are the Go struct types of the bodies; ListType may be nil.
	Type, ListType reflect.Type
	// Custom describes bodies that have no Go type; Type is nil then.
	Custom *Custom
}

// Custom is a body of a kind that users have defined.
type Custom struct {
	// Kind is compared to tell whether anything has changed; any pointer.
	Kind any
	// Name of the model, such as "com.example.v1.Widget".
	Name string
	// Schema returns the schema of an object in a version of OpenAPI, a JSON object that is
	// not empty.
	Schema func(v3 bool) (json.RawMessage, error)
}

// same tells whether two resources are documented alike.
func (r Resource) same(other Resource) bool {
	custom := r.Custom == nil && other.Custom == nil || r.Custom != nil && other.Custom != nil && r.Custom.Kind == other.Custom.Kind
	return custom && r.GVR == other.GVR && r.GVK == other.GVK && r.Subresource == other.Subresource && r.Type == other.Type
}

// Config of Documents.
type Config struct {
	// Version of the API server, info.version of each document. Required.
	Version string
	// Resources to document. Required.
	Resources []Resource
	// Extra lists types that are documented in every group version's document though
	// no resource has them as its body, such as Status.
	Extra []reflect.Type
}

// Document is one document in one encoding.
type Document struct {
	// ETag identifies the content, without quotes.
	ETag string
	gz   []byte
}

// Gzip returns the compressed document. Not to be changed.
func (d *Document) Gzip() []byte { return d.gz }

// WriteTo writes the document uncompressed.
func (d *Document) WriteTo(w io.Writer) (int64, error) {
	r, err := gzip.NewReader(bytes.NewReader(d.gz))
	if err != nil {
		return 0, fmt.Errorf("read cached document: %w", err)
	}
	return io.Copy(w, r) //nolint:gosec // our own data
}

// Documents builds and caches documents. Safe for concurrent use.
type Documents struct {
	cfg Config

	mu    sync.Mutex // held while building, so that a document is built once
	cache map[string]*Document
	index []byte
}

// New returns Documents; nothing is built yet.
func New(cfg Config) *Documents {
	return &Documents{cfg: cfg, cache: map[string]*Document{}}
}

// With returns Documents of other resources, taking over what has not changed.
func (d *Documents) With(resources []Resource) *Documents {
	out := New(Config{Version: d.cfg.Version, Resources: resources, Extra: d.cfg.Extra})
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, gv := range out.groupVersions() {
		if !slices.EqualFunc(d.of(gv), out.of(gv), Resource.same) {
			continue
		}
		for _, key := range []string{"v3/" + path(gv), "v3pb/" + path(gv)} {
			if doc, ok := d.cache[key]; ok {
				out.cache[key] = doc
			}
		}
	}
	return out
}

// of lists the resources of a group version.
func (d *Documents) of(gv schema.GroupVersion) []Resource {
	var out []Resource
	for _, r := range d.cfg.Resources {
		if r.GVR.GroupVersion() == gv {
			out = append(out, r)
		}
	}
	return out
}

// path is "api/v1" or "apis/apps/v1".
func path(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.String()
}

func (d *Documents) groupVersions() []schema.GroupVersion {
	seen := map[schema.GroupVersion]bool{}
	var out []schema.GroupVersion
	for _, r := range d.cfg.Resources {
		if gv := r.GVR.GroupVersion(); !seen[gv] {
			seen[gv] = true
			out = append(out, gv)
		}
	}
	sort.Slice(out, func(i, j int) bool { return path(out[i]) < path(out[j]) })
	return out
}

// IndexV3 returns the JSON of /openapi/v3: a URL with content hash per group version.
func (d *Documents) IndexV3() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.index != nil {
		return d.index, nil
	}
	type item struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]item{}
	for _, gv := range d.groupVersions() {
		doc, err := d.v3JSON(gv)
		if err != nil {
			return nil, err
		}
		paths[path(gv)] = item{ServerRelativeURL: "/openapi/v3/" + path(gv) + "?hash=" + doc.ETag}
	}
	out, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		return nil, fmt.Errorf("encode openapi index: %w", err)
	}
	d.index = out
	return out, nil
}

// V3 returns the document of a path such as "api/v1" or "apis/apps/v1"; nil if there is none.
func (d *Documents) V3(groupVersionPath string, protobuf bool) (*Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, gv := range d.groupVersions() {
		if path(gv) != groupVersionPath {
			continue
		}
		doc, err := d.v3JSON(gv)
		if err != nil || !protobuf {
			return doc, err
		}
		pb, err := d.cached("v3pb/"+groupVersionPath, func() ([]byte, error) {
			var raw bytes.Buffer
			if _, err := doc.WriteTo(&raw); err != nil {
				return nil, err
			}
			parsed, err := openapiv3.ParseDocument(raw.Bytes())
			if err != nil {
				return nil, fmt.Errorf("convert openapi v3 of %s: %w", groupVersionPath, err)
			}
			return proto.Marshal(parsed)
		})
		if err != nil {
			return nil, err
		}
		// The index names one hash for both encodings.
		return &Document{ETag: doc.ETag, gz: pb.gz}, nil
	}
	return nil, nil
}

// V2 returns the document of everything.
func (d *Documents) V2(protobuf bool) (*Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	doc, err := d.cached("v2", func() ([]byte, error) {
		doc, err := d.swagger(d.cfg.Resources)
		if err != nil {
			return nil, err
		}
		return json.Marshal(doc)
	})
	if err != nil || !protobuf {
		return doc, err
	}
	return d.cached("v2pb", func() ([]byte, error) {
		var raw bytes.Buffer
		if _, err := doc.WriteTo(&raw); err != nil {
			return nil, err
		}
		parsed, err := openapiv2.ParseDocument(raw.Bytes())
		if err != nil {
			return nil, fmt.Errorf("convert openapi v2: %w", err)
		}
		return proto.Marshal(parsed)
	})
}

func (d *Documents) v3JSON(gv schema.GroupVersion) (*Document, error) {
	return d.cached("v3/"+path(gv), func() ([]byte, error) {
		doc, err := d.openapi(d.of(gv))
		if err != nil {
			return nil, err
		}
		return json.Marshal(doc)
	})
}

// cached builds a document unless it is there. d.mu is held.
func (d *Documents) cached(key string, build func() ([]byte, error)) (*Document, error) {
	if doc, ok := d.cache[key]; ok {
		return doc, nil
	}
	raw, err := build()
	if err != nil {
		return nil, fmt.Errorf("build openapi %s: %w", key, err)
	}
	sum := sha512.Sum512(raw)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write(raw); err != nil {
		return nil, fmt.Errorf("compress openapi %s: %w", key, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress openapi %s: %w", key, err)
	}
	doc := &Document{ETag: strings.ToUpper(hex.EncodeToString(sum[:])), gz: bytes.Clone(gz.Bytes())}
	d.cache[key] = doc
	return doc, nil
}
