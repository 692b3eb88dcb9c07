package authz_test

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/platform/kube/object"
)

// podsFixture: pod a/own runs on node-1 and uses a/settings, a/password and claim a/data, which is
// bound to volume; a/other runs on node-2. Volume own-left is one of node-1 that no pod uses; gone
// does not exist.
type podsFixture struct{}

func (podsFixture) NodeOf(namespace, name string) string {
	return map[string]string{"a/own": "node-1", "a/other": "node-2"}[namespace+"/"+name]
}

func (podsFixture) UsedOn(node, resource, namespace, name string) bool {
	return node == "node-1" && (resource == "configmaps" && namespace == "a" && name == "settings" ||
		resource == "secrets" && namespace == "a" && name == "password" ||
		resource == "persistentvolumeclaims" && namespace == "a" && name == "data" ||
		resource == "persistentvolumes" && namespace == "" && name == "volume")
}

func (podsFixture) KeptOn(node, name string) bool {
	return name == "gone" || node == "node-1" && name == "own-left"
}

func TestAuthorize(t *testing.T) {
	node := func(name string) (string, []string) {
		return "system:node:" + name, []string{"system:nodes", "kijabi:role:node"}
	}
	nodeUser, nodeGroups := node("node-1")
	nodeRead := func(verb, resource, namespace, name, selector string) authz.Attributes {
		return authz.Attributes{
			User: nodeUser, Groups: nodeGroups, Verb: verb, Resource: schema.GroupResource{Resource: resource}, Namespace: namespace, Name: name, FieldSelector: selector,
		}
	}
	tests := map[string]struct {
		attr authz.Attributes
		want bool
	}{
		"admin may everything":          {authz.Attributes{User: "kubernetes-admin", Groups: []string{"system:masters"}, Verb: "delete", Resource: schema.GroupResource{Resource: "nodes"}, Name: "x"}, true},
		"unknown user may nothing":      {authz.Attributes{User: "eve", Groups: []string{"system:authenticated"}, Verb: "get", Resource: schema.GroupResource{Resource: "pods"}, Namespace: "a", Name: "own"}, false},
		"scheduler binds":               {authz.Attributes{Groups: []string{"kijabi:role:scheduler"}, Verb: "create", Resource: schema.GroupResource{Resource: "pods"}, Subresource: "binding"}, true},
		"scheduler reserves volumes":    {authz.Attributes{Groups: []string{"kijabi:role:scheduler"}, Verb: "update", Resource: schema.GroupResource{Resource: "persistentvolumes"}}, true},
		"scheduler selects nodes":       {authz.Attributes{Groups: []string{"kijabi:role:scheduler"}, Verb: "update", Resource: schema.GroupResource{Resource: "persistentvolumeclaims"}}, true},
		"scheduler reads classes":       {authz.Attributes{Groups: []string{"kijabi:role:scheduler"}, Verb: "watch", Resource: schema.GroupResource{Group: "storage.k8s.io", Resource: "storageclasses"}}, true},
		"scheduler makes no volumes":    {authz.Attributes{Groups: []string{"kijabi:role:scheduler"}, Verb: "create", Resource: schema.GroupResource{Resource: "persistentvolumes"}}, false},
		"scheduler says nothing bound":  {authz.Attributes{Groups: []string{"kijabi:role:scheduler"}, Verb: "update", Resource: schema.GroupResource{Resource: "persistentvolumes"}, Subresource: "status"}, false},
		"loops attach volumes":          {authz.Attributes{Groups: []string{"kijabi:role:controller-manager"}, Verb: "create", Resource: schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}}, true},
		"loops say what is bound":       {authz.Attributes{Groups: []string{"kijabi:role:controller-manager"}, Verb: "update", Resource: schema.GroupResource{Resource: "persistentvolumeclaims"}, Subresource: "status"}, true},
		"scheduler reads no secret":     {authz.Attributes{Groups: []string{"kijabi:role:scheduler"}, Verb: "get", Resource: schema.GroupResource{Resource: "secrets"}}, false},
		"proxy reads services":          {authz.Attributes{Groups: []string{"kijabi:role:kube-proxy"}, Verb: "watch", Resource: schema.GroupResource{Resource: "services"}}, true},
		"proxy writes no service":       {authz.Attributes{Groups: []string{"kijabi:role:kube-proxy"}, Verb: "update", Resource: schema.GroupResource{Resource: "services"}}, false},
		"loops do not exec":             {authz.Attributes{Groups: []string{"kijabi:role:controller-manager"}, Verb: "create", Resource: schema.GroupResource{Resource: "pods"}, Subresource: "exec"}, false},
		"loops write deployment status": {authz.Attributes{Groups: []string{"kijabi:role:controller-manager"}, Verb: "update", Resource: schema.GroupResource{Group: "apps", Resource: "deployments"}, Subresource: "status"}, true},

		"node lists its pods":                    {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "watch", Resource: schema.GroupResource{Resource: "pods"}, FieldSelector: "spec.nodeName=node-1"}, true},
		"node lists no others' pods":             {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "watch", Resource: schema.GroupResource{Resource: "pods"}, FieldSelector: "spec.nodeName=node-2"}, false},
		"node lists not all pods":                {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "list", Resource: schema.GroupResource{Resource: "pods"}}, false},
		"node posts its pod's status":            {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "update", Resource: schema.GroupResource{Resource: "pods"}, Subresource: "status", Namespace: "a", Name: "own"}, true},
		"node posts no other's status":           {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "update", Resource: schema.GroupResource{Resource: "pods"}, Subresource: "status", Namespace: "a", Name: "other"}, false},
		"node creates no pod":                    {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "create", Resource: schema.GroupResource{Resource: "pods"}, Namespace: "a", Name: "new"}, false},
		"node updates no pod spec":               {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "update", Resource: schema.GroupResource{Resource: "pods"}, Namespace: "a", Name: "own"}, false},
		"node reads a secret its pod names":      {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "get", Resource: schema.GroupResource{Resource: "secrets"}, Namespace: "a", Name: "password"}, true},
		"node watches a secret its pod names":    {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "watch", Resource: schema.GroupResource{Resource: "secrets"}, Namespace: "a", FieldSelector: "metadata.name=password"}, true},
		"node reads no other secret":             {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "get", Resource: schema.GroupResource{Resource: "secrets"}, Namespace: "a", Name: "root"}, false},
		"node lists no secrets":                  {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "list", Resource: schema.GroupResource{Resource: "secrets"}, Namespace: "a"}, false},
		"node reads its pod's claim":             {nodeRead("get", "persistentvolumeclaims", "a", "data", ""), true},
		"node watches its pod's claim":           {nodeRead("watch", "persistentvolumeclaims", "a", "", "metadata.name=data"), true},
		"node reads no other claim":              {nodeRead("get", "persistentvolumeclaims", "a", "others", ""), false},
		"node watches no other claim":            {nodeRead("watch", "persistentvolumeclaims", "a", "", "metadata.name=others"), false},
		"node reads no claim of that name":       {nodeRead("get", "persistentvolumeclaims", "b", "data", ""), false},
		"node lists no claims":                   {nodeRead("list", "persistentvolumeclaims", "a", "", ""), false},
		"node lists not all claims":              {nodeRead("list", "persistentvolumeclaims", "", "", "metadata.name=data"), false},
		"node writes no claim":                   {nodeRead("update", "persistentvolumeclaims", "a", "data", ""), false},
		"node deletes no claim":                  {nodeRead("delete", "persistentvolumeclaims", "a", "data", ""), false},
		"node reads its pod's volume":            {nodeRead("get", "persistentvolumes", "", "volume", ""), true},
		"node watches its pod's volume":          {nodeRead("watch", "persistentvolumes", "", "", "metadata.name=volume"), true},
		"node reads an unused volume of its own": {nodeRead("get", "persistentvolumes", "", "own-left", ""), true},
		"node watches no unused volume":          {nodeRead("watch", "persistentvolumes", "", "", "metadata.name=own-left"), false},
		"node hears that a volume is gone":       {nodeRead("get", "persistentvolumes", "", "gone", ""), true},
		"node waits for no name to be used":      {nodeRead("watch", "persistentvolumes", "", "", "metadata.name=gone"), false},
		"node reads no other volume":             {nodeRead("get", "persistentvolumes", "", "others", ""), false},
		"node watches no other volume":           {nodeRead("watch", "persistentvolumes", "", "", "metadata.name=others"), false},
		"node lists no volumes":                  {nodeRead("list", "persistentvolumes", "", "", ""), false},
		"node watches not all volumes":           {nodeRead("watch", "persistentvolumes", "", "", "metadata.name!=volume"), false},
		"node deletes no volume":                 {nodeRead("delete", "persistentvolumes", "", "own-left", ""), false},
		"node writes no volume":                  {nodeRead("patch", "persistentvolumes", "", "volume", ""), false},
		"node makes no volume":                   {nodeRead("create", "persistentvolumes", "", "gone", ""), false},
		"node updates itself":                    {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "update", Resource: schema.GroupResource{Resource: "nodes"}, Subresource: "status", Name: "node-1"}, true},
		"node updates no other node":             {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "update", Resource: schema.GroupResource{Resource: "nodes"}, Subresource: "status", Name: "node-2"}, false},
		"node deletes no node":                   {authz.Attributes{User: nodeUser, Groups: nodeGroups, Verb: "delete", Resource: schema.GroupResource{Resource: "nodes"}, Name: "node-1"}, false},
		"node group without node name":           {authz.Attributes{User: "eve", Groups: nodeGroups, Verb: "get", Resource: schema.GroupResource{Resource: "nodes"}}, false},
	}
	for _, kind := range object.Kinds() {
		if kind.NewList == nil {
			continue
		}
		for verb, want := range map[string]bool{"list": true, "deletecollection": true, "escalate": false} {
			tests["loops "+verb+" "+kind.GroupResource().String()] = struct {
				attr authz.Attributes
				want bool
			}{authz.Attributes{Groups: []string{"kijabi:role:controller-manager"}, Verb: verb, Resource: kind.GroupResource(), Namespace: "a"}, want}
		}
	}
	for verb, want := range map[string]bool{"list": true, "watch": true, "deletecollection": true, "patch": true, "create": false} {
		tests["loops "+verb+" widgets"] = struct {
			attr authz.Attributes
			want bool
		}{authz.Attributes{Groups: []string{"kijabi:role:controller-manager"}, Verb: verb, Resource: schema.GroupResource{Group: "example.com", Resource: "widgets"}, Namespace: "a"}, want}
	}
	tests["loops create no scale of a widget"] = struct {
		attr authz.Attributes
		want bool
	}{authz.Attributes{Groups: []string{"kijabi:role:controller-manager"}, Verb: "update", Resource: schema.GroupResource{Group: "example.com", Resource: "widgets"}, Subresource: "scale", Namespace: "a"}, false}
	tests["loops write no role"] = struct {
		attr authz.Attributes
		want bool
	}{authz.Attributes{Groups: []string{"kijabi:role:controller-manager"}, Verb: "create", Resource: schema.GroupResource{Group: "rbac.authorization.k8s.io", Resource: "roles"}, Namespace: "a"}, false}
	authorizer := authz.New(authz.Config{Pods: podsFixture{}, Policy: authz.NewPolicy()})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := authorizer.Authorize(t.Context(), test.attr)
			if got := err == nil; got != test.want {
				t.Errorf("authorized %v, want %v: %v", got, test.want, err)
			}
			if err != nil && !apierrors.IsForbidden(err) {
				t.Errorf("error is not Forbidden: %v", err)
			}
		})
	}
}
