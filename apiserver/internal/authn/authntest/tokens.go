// Package authntest makes tokens of service accounts for tests.
package authntest

import (
	"testing"

	"kijabi.dev/apiserver/internal/authn"
	"kijabi.dev/platform/pki"
)

// Issuer of Tokens.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// Tokens are signed by a key of one test and bound to objects.
func Tokens(t testing.TB, objects authn.Objects) *authn.Tokens {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatalf("make key: %v", err)
	}
	private, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatalf("encode key: %v", err)
	}
	keys, err := authn.ParseKeys(private, nil)
	if err != nil {
		t.Fatalf("parse key: %v", err)
	}
	tokens, err := authn.NewTokens(authn.Config{Keys: keys, Issuer: Issuer, Objects: objects})
	if err != nil {
		t.Fatalf("make tokens: %v", err)
	}
	return tokens
}
