package rest

import (
	"crypto/sha512"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/reviews"
)

// discovery tells clients what is served. It is built from the kinds, anew when
// there are others.
type discovery struct {
	// groups in order, core first.
	groups    []string
	versions  map[string][]string
	resources map[schema.GroupVersion][]metav1.APIResource
}

func newDiscovery(served []*registry.Kind) *discovery {
	d := &discovery{versions: map[string][]string{}, resources: map[schema.GroupVersion][]metav1.APIResource{}}
	add := func(gv schema.GroupVersion, list ...metav1.APIResource) {
		if !slices.Contains(d.groups, gv.Group) {
			d.groups = append(d.groups, gv.Group)
		}
		if !slices.Contains(d.versions[gv.Group], gv.Version) {
			d.versions[gv.Group] = append(d.versions[gv.Group], gv.Version)
		}
		d.resources[gv] = append(d.resources[gv], list...)
	}
	for _, k := range served {
		add(k.GVK.GroupVersion(), apiResources(k)...)
	}
	for _, k := range reviews.Kinds() {
		add(k.GVK.GroupVersion(), reviewResource(k))
	}
	return d
}

// apiResources describes a kind and its subresources.
func apiResources(k *registry.Kind) []metav1.APIResource {
	out := []metav1.APIResource{{
		Name: k.GVR.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.GVK.Kind,
		Verbs: k.Verbs, ShortNames: k.ShortNames, Categories: k.Categories, StorageVersionHash: storageHash(k),
	}}
	for _, sub := range k.Subresources {
		if !servesSubresource(k, sub.Name) {
			continue
		}
		r := metav1.APIResource{Name: k.GVR.Resource + "/" + sub.Name, Namespaced: k.Namespaced, Kind: sub.GVK.Kind, Verbs: sub.Verbs}
		if sub.GVK.GroupVersion() != k.GVK.GroupVersion() {
			r.Group, r.Version = sub.GVK.Group, sub.GVK.Version
		}
		if body := streamOptionsKind(k.GVK.Kind, sub.Name); sub.Stream && body != "" {
			r.Kind = body
		}
		out = append(out, r)
	}
	return out
}

// streamOptionsKind is the kind that discovery names for a stream; clients send its fields as the query.
func streamOptionsKind(kind, subresource string) string {
	switch subresource {
	case "attach":
		return "PodAttachOptions"
	case "exec":
		return "PodExecOptions"
	case "portforward":
		return "PodPortForwardOptions"
	case "proxy":
		return kind + "ProxyOptions"
	default:
		return ""
	}
}

func storageHash(k *registry.Kind) string {
	sum := sha512.Sum512([]byte(k.Stored().GVK.String()))
	return hex.EncodeToString(sum[:8])
}

func (d *discovery) group(name string) metav1.APIGroup {
	g := metav1.APIGroup{Name: name}
	for _, v := range d.versions[name] {
		gv := schema.GroupVersion{Group: name, Version: v}
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: v})
	}
	g.PreferredVersion = g.Versions[0]
	return g
}

// aggregated builds the answer that holds everything; core chooses between /api and /apis.
func (d *discovery) aggregated(core bool) *apidiscoveryv2.APIGroupDiscoveryList {
	list := &apidiscoveryv2.APIGroupDiscoveryList{}
	for _, name := range d.groups {
		if (name == "") != core {
			continue
		}
		g := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, v := range d.versions[name] {
			version := apidiscoveryv2.APIVersionDiscovery{Version: v, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
			version.Resources = aggregatedResources(schema.GroupVersion{Group: name, Version: v}, d.resources[schema.GroupVersion{Group: name, Version: v}])
			g.Versions = append(g.Versions, version)
		}
		list.Items = append(list.Items, g)
	}
	return list
}

func aggregatedResources(gv schema.GroupVersion, resources []metav1.APIResource) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	for _, r := range resources {
		kind := &metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: r.Kind}
		if r.Group != "" || r.Version != "" {
			kind.Group, kind.Version = r.Group, r.Version
		}
		if parent, sub, ok := strings.Cut(r.Name, "/"); ok {
			i := slices.IndexFunc(out, func(p apidiscoveryv2.APIResourceDiscovery) bool { return p.Resource == parent })
			if i >= 0 {
				out[i].Subresources = append(out[i].Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
			}
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		out = append(out, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.Name, ResponseKind: kind, Scope: scope, SingularResource: r.SingularName,
			Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		})
	}
	return out
}

// wantsAggregated tells whether the first alternative a client accepts is the
// aggregated form, and in which version.
func wantsAggregated(r *http.Request) (string, bool) {
	for _, c := range parseAccept(strings.Join(r.Header.Values("Accept"), ",")) {
		if c.media != mediaJSON && c.media != "*/*" && c.media != "application/*" {
			continue
		}
		if c.params["as"] == "" {
			return "", false
		}
		if v := c.params["v"]; c.media == mediaJSON && c.params["g"] == apidiscoveryv2.GroupName && c.params["as"] == "APIGroupDiscoveryList" && (v == "v2" || v == "v2beta1") {
			return v, true
		}
	}
	return "", false
}

// serveDiscovery answers /api, /api/VERSION, /apis, /apis/GROUP and /apis/GROUP/VERSION.
func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request, path string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		s.fail(w, r, notFound())
		return
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	s.catchUp(r)
	d := s.view().discovery
	if version, ok := wantsAggregated(r); ok && len(parts) == 1 {
		list := d.aggregated(parts[0] == "api")
		list.SetGroupVersionKind(schema.GroupVersionKind{Group: apidiscoveryv2.GroupName, Version: version, Kind: "APIGroupDiscoveryList"})
		s.writeTagged(w, r, mediaJSON+";g=apidiscovery.k8s.io;v="+version+";as=APIGroupDiscoveryList", list)
		return
	}
	f := plainFormat(r)
	switch {
	case len(parts) == 1 && parts[0] == "api":
		answer := &metav1.APIVersions{Versions: d.versions[""]}
		if s.cfg.AdvertiseAddress != "" {
			answer.ServerAddressByClientCIDRs = []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: s.cfg.AdvertiseAddress}}
		}
		answer.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "APIVersions"})
		s.writeObject(w, f, http.StatusOK, answer)
	case len(parts) == 1:
		answer := &metav1.APIGroupList{}
		for _, name := range d.groups {
			if name != "" {
				answer.Groups = append(answer.Groups, d.group(name))
			}
		}
		answer.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "APIGroupList"})
		s.writeObject(w, f, http.StatusOK, answer)
	case len(parts) == 2 && parts[0] == "apis":
		if len(d.versions[parts[1]]) == 0 {
			s.fail(w, r, notFound())
			return
		}
		answer := d.group(parts[1])
		answer.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "APIGroup"})
		s.writeObject(w, f, http.StatusOK, &answer)
	default:
		gv := schema.GroupVersion{Version: parts[len(parts)-1]}
		if parts[0] == "apis" {
			gv.Group = parts[1]
		}
		resources, ok := d.resources[gv]
		if !ok {
			s.fail(w, r, notFound())
			return
		}
		answer := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: resources}
		answer.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "APIResourceList"})
		s.writeObject(w, f, http.StatusOK, answer)
	}
}

// writeTagged answers with JSON and an ETag, or with 304 when the client has it.
func (s *Server) writeTagged(w http.ResponseWriter, r *http.Request, contentType string, v any) {
	data, err := marshalJSON(v, false)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	sum := sha512.Sum512(data)
	etag := `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
	w.Header().Set("ETag", etag)
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "public")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	c := newCompressor(w, r)
	defer c.close()
	writeBody(c, contentType, http.StatusOK, data)
}

// serveRoot lists the paths.
func (s *Server) serveRoot(w http.ResponseWriter, r *http.Request) {
	paths := []string{
		wellKnownPath, "/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", jwksPath, "/readyz", "/version",
	}
	for gv := range s.view().discovery.resources {
		if gv.Group == "" {
			paths = append(paths, "/api/"+gv.Version)
			continue
		}
		paths = append(paths, "/apis/"+gv.Group, "/apis/"+gv.String())
	}
	slices.Sort(paths)
	s.writeJSON(w, r, map[string]any{"paths": slices.Compact(paths)})
}
