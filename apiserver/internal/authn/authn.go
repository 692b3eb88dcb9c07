// Package authn finds out who makes a request: the holder of a client certificate, or
// a service account by the token it was given. It issues those tokens, too, and says by
// which keys others can check them. Both doors use it.
package authn

import (
	"crypto/x509"
	"slices"
)

// Names that every cluster knows.
const (
	UserAnonymous         = "system:anonymous"
	GroupAuthenticated    = "system:authenticated"
	GroupUnauthenticated  = "system:unauthenticated"
	GroupServiceAccounts  = "system:serviceaccounts"
	serviceAccountPrefix  = "system:serviceaccount:"
	serviceAccountsPrefix = GroupServiceAccounts + ":"
)

// User is who makes a request.
type User struct {
	Name string
	// UID is empty for users that are known by their certificate.
	UID    string
	Groups []string
	// Extra is what else is known, by key. Not to be changed.
	Extra map[string][]string
}

// Anonymous is the user who says nothing about itself.
func Anonymous() User {
	return User{Name: UserAnonymous, Groups: []string{GroupUnauthenticated}}
}

// Certificate names the user of a verified client certificate; false if it names none.
func Certificate(cert *x509.Certificate) (User, bool) {
	if cert.Subject.CommonName == "" {
		return User{}, false
	}
	return User{
		Name:   cert.Subject.CommonName,
		Groups: append(slices.Clone(cert.Subject.Organization), GroupAuthenticated),
	}, true
}

// ServiceAccount is the name of a service account as a user.
func ServiceAccount(namespace, name string) string {
	return serviceAccountPrefix + namespace + ":" + name
}

// ServiceAccountGroups are the groups of a service account.
func ServiceAccountGroups(namespace string) []string {
	return []string{GroupServiceAccounts, serviceAccountsPrefix + namespace, GroupAuthenticated}
}
