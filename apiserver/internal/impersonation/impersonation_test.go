package impersonation_test

import (
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
	"kijabi.dev/apiserver/internal/impersonation"
)

func TestTake(t *testing.T) {
	header := http.Header{}
	for _, line := range [][2]string{
		{"Impersonate-User", "eve"}, {"Impersonate-Group", "a"}, {"Impersonate-Group", "b"}, {"Impersonate-Uid", "1"},
		{"Impersonate-Extra-Scopes", "x"}, {"Impersonate-Extra-Scopes", "y"}, {"Impersonate-Extra-Example.com%2fkey", "z"}, {"Accept", "kept"},
	} {
		header.Add(line[0], line[1])
	}
	user, asked, err := impersonation.Take(header)
	want := authn.User{Name: "eve", UID: "1", Groups: []string{"a", "b"}, Extra: map[string][]string{"scopes": {"x", "y"}, "example.com/key": {"z"}}}
	if err != nil || !asked || !reflect.DeepEqual(user, want) {
		t.Errorf("%+v %v %v", user, asked, err)
	}
	if len(header) != 1 || header.Get("Accept") != "kept" {
		t.Errorf("left: %v", header)
	}
	for _, wrong := range []map[string][]string{
		{"impersonate-group": {"a"}}, {"impersonate-uid": {"1"}}, {"impersonate-extra-a": {"b"}}, {"impersonate-user": {"", ""}},
		{"impersonate-user": {"eve", "bob"}}, {"Impersonate-User": {"eve"}, "impersonate-user": {"bob"}}, {"impersonate-user": {"eve"}, "impersonate-uid": {"1", "2"}},
		{"impersonate-user": {""}},
	} {
		if _, asked, err := impersonation.Take(wrong); asked || !apierrors.IsBadRequest(err) {
			t.Errorf("%v: %v %v", wrong, asked, err)
		}
	}
	if _, asked, err := impersonation.Take(map[string][]string{"accept": {"x"}}); asked || err != nil {
		t.Errorf("nobody is named: %v %v", asked, err)
	}
}

func TestAs(t *testing.T) {
	for _, c := range []struct {
		wanted authn.User
		asked  string // sorted
		groups []string
	}{
		{authn.User{Name: "eve"}, "users//eve", []string{"system:authenticated"}},
		{authn.User{Name: "eve", Groups: []string{"g"}, UID: "7", Extra: map[string][]string{"k": {"v", "w"}}},
			"groups//g uids//7 userextras/k//v userextras/k//w users//eve", []string{"g", "system:authenticated"}},
		{authn.User{Name: "system:serviceaccount:ns:robot"}, "serviceaccounts/ns/robot", []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}},
		{authn.User{Name: "system:serviceaccount:ns"}, "users//system:serviceaccount:ns", []string{"system:authenticated"}},
		{authn.User{Name: "system:anonymous"}, "users//system:anonymous", []string{"system:unauthenticated"}},
		{authn.User{Name: "eve", Groups: []string{"system:unauthenticated"}}, "groups//system:unauthenticated users//eve", []string{"system:unauthenticated"}},
	} {
		var asked []string
		user, err := impersonation.As(c.wanted, func(attr authz.Attributes) error {
			resource := strings.TrimSuffix(attr.Resource.Resource+"/"+attr.Subresource, "/")
			asked = append(asked, resource+"/"+attr.Namespace+"/"+attr.Name)
			if attr.Verb != "impersonate" || (attr.Resource.Group == "authentication.k8s.io") != (attr.Resource.Resource == "uids" || attr.Resource.Resource == "userextras") {
				t.Errorf("asked %+v", attr)
			}
			return nil
		})
		slices.Sort(asked)
		if err != nil || strings.Join(asked, " ") != c.asked || !slices.Equal(user.Groups, c.groups) || user.Name != c.wanted.Name || user.UID != c.wanted.UID {
			t.Errorf("%+v: %+v, %v, asked %q", c.wanted, user, err, asked)
		}
	}
	no := errors.New("no")
	for _, refused := range []string{"users", "groups", "uids", "userextras"} {
		_, err := impersonation.As(authn.User{Name: "eve", Groups: []string{"g"}, UID: "7", Extra: map[string][]string{"k": {"v"}}}, func(attr authz.Attributes) error {
			if attr.Resource.Resource == refused {
				return no
			}
			return nil
		})
		if !errors.Is(err, no) {
			t.Errorf("%s: %v", refused, err)
		}
	}
}
