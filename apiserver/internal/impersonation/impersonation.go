// Package impersonation lets a user act as another whom it may impersonate. Both doors
// use it, with HTTP headers and with gRPC metadata of the same names.
package impersonation

import (
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/apiserver/internal/authz"
)

// Names of headers and keys of metadata, in lower case.
const (
	User  = "impersonate-user"
	UID   = "impersonate-uid"
	Group = "impersonate-group"
	// ExtraPrefix is followed by the name of an extra field, percent-encoded where it must be.
	ExtraPrefix = "impersonate-extra-"
)

// Take reads whom the headers of a request name and removes those headers, so that nobody
// acts on them a second time. asked is false when they name nobody. The case of names does
// not matter. The error is a BadRequest.
func Take(headers map[string][]string) (wanted authn.User, asked bool, err error) {
	var users, uids []string
	for name, values := range headers {
		switch key := strings.ToLower(name); {
		case key == User:
			users = append(users, values...)
		case key == UID:
			uids = append(uids, values...)
		case key == Group:
			wanted.Groups = append(wanted.Groups, values...)
		case strings.HasPrefix(key, ExtraPrefix):
			key = strings.TrimPrefix(key, ExtraPrefix)
			if plain, err := url.PathUnescape(key); err == nil {
				key = plain
			}
			if wanted.Extra == nil {
				wanted.Extra = map[string][]string{}
			}
			wanted.Extra[key] = append(wanted.Extra[key], values...)
		default:
			continue
		}
		delete(headers, name)
	}
	if len(users) > 1 || len(uids) > 1 {
		return wanted, false, apierrors.NewBadRequest("requested to impersonate several users")
	}
	wanted.Name, wanted.UID = strings.Join(users, ""), strings.Join(uids, "")
	switch {
	case wanted.Name != "":
		return wanted, true, nil
	case len(users)+len(uids)+len(wanted.Groups)+len(wanted.Extra) > 0:
		return wanted, false, apierrors.NewBadRequest("requested to impersonate groups, a uid or extra fields without impersonating a user")
	}
	return wanted, false, nil
}

// As returns the user that acts when wanted is impersonated, with the groups that it has
// without saying so. Each part of wanted is authorized: authorize is asked about verb, resource
// and name, as the one who impersonates; its first error is returned.
func As(wanted authn.User, authorize func(authz.Attributes) error) (authn.User, error) {
	namespace, account, isAccount := serviceAccount(wanted.Name)
	parts := []authz.Attributes{part("", "users", "", wanted.Name)}
	if isAccount {
		parts[0] = part("", "serviceaccounts", "", account)
		parts[0].Namespace = namespace
	}
	const group = "authentication.k8s.io"
	for _, name := range wanted.Groups {
		parts = append(parts, part("", "groups", "", name))
	}
	if wanted.UID != "" {
		parts = append(parts, part(group, "uids", "", wanted.UID))
	}
	for key, values := range wanted.Extra {
		for _, value := range values {
			parts = append(parts, part(group, "userextras", key, value))
		}
	}
	for _, attr := range parts {
		if err := authorize(attr); err != nil {
			return authn.User{}, err
		}
	}
	wanted.Groups = slices.Clone(wanted.Groups)
	switch known := slices.Contains(wanted.Groups, authn.GroupAuthenticated) || slices.Contains(wanted.Groups, authn.GroupUnauthenticated); {
	case isAccount && len(wanted.Groups) == 0:
		wanted.Groups = authn.ServiceAccountGroups(namespace)
	case wanted.Name == authn.UserAnonymous && !known:
		wanted.Groups = append(wanted.Groups, authn.GroupUnauthenticated)
	case !known:
		wanted.Groups = append(wanted.Groups, authn.GroupAuthenticated)
	}
	return wanted, nil
}

func part(group, resource, subresource, name string) authz.Attributes {
	return authz.Attributes{
		Verb: "impersonate", Resource: schema.GroupResource{Group: group, Resource: resource}, Subresource: subresource, Name: name,
	}
}

// serviceAccount takes the user name of a service account apart.
func serviceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}
