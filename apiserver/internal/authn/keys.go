package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kijabi.dev/platform/pki"
)

// keyBase names the files of the token keys in the directory of the cluster's keys.
const keyBase = "service-account"

// Keys sign tokens and check them. All masters of a cluster hold the same.
//
// To change the signing key, put the new public key beside the old one into
// service-account.pub on every master, then replace service-account.key, and take the old
// public key away once no token of it is valid any more.
type Keys struct {
	signing   *ecdsa.PrivateKey
	signingID string
	verifying map[string]*ecdsa.PublicKey
	// order of the ids, the signing key's first.
	order []string
}

// LoadKeys reads the signing key of service-account.key and the further verifying keys of
// service-account.pub, which holds one or several.
func LoadKeys(dir string) (*Keys, error) {
	private, err := os.ReadFile(filepath.Join(dir, keyBase+".key"))
	if err != nil {
		return nil, fmt.Errorf("token signing key: %w", err)
	}
	public, err := os.ReadFile(filepath.Join(dir, keyBase+".pub"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("token verifying keys: %w", err)
	}
	keys, err := ParseKeys(private, public)
	if err != nil {
		return nil, fmt.Errorf("token keys in %s: %w", dir, err)
	}
	return keys, nil
}

// ParseKeys is LoadKeys for content already read.
func ParseKeys(private, public []byte) (*Keys, error) {
	signing, err := pki.ParseKey(private)
	if err != nil {
		return nil, err
	}
	k := &Keys{signing: signing, verifying: map[string]*ecdsa.PublicKey{}}
	if k.signingID, err = k.add(&signing.PublicKey); err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, public = pem.Decode(public); block == nil {
			return k, nil
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("verifying key: %w", err)
		}
		ec, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("verifying key: %T is not ECDSA", key)
		}
		if _, err := k.add(ec); err != nil {
			return nil, err
		}
	}
}

// add admits a verifying key and returns its id, which follows from the key.
func (k *Keys) add(key *ecdsa.PublicKey) (string, error) {
	if key.Curve != elliptic.P256() {
		return "", fmt.Errorf("key is of curve %s; tokens are signed with P-256", key.Curve.Params().Name)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode key: %w", err)
	}
	sum := sha256.Sum256(der)
	id := base64.RawURLEncoding.EncodeToString(sum[:])
	if k.verifying[id] == nil {
		k.verifying[id] = key
		k.order = append(k.order, id)
	}
	return id, nil
}

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	Use       string `json:"use"`
	KeyType   string `json:"kty"`
	ID        string `json:"kid"`
	Curve     string `json:"crv"`
	Algorithm string `json:"alg"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

// JWKS is the set of verifying keys as JSON (RFC 7517).
func (k *Keys) JWKS() ([]byte, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, id := range k.order {
		point, err := k.verifying[id].Bytes() // 4, x, y
		if err != nil {
			return nil, fmt.Errorf("encode key %s: %w", id, err)
		}
		half := (len(point) - 1) / 2
		set.Keys = append(set.Keys, jwk{
			Use: "sig", KeyType: "EC", ID: id, Curve: "P-256", Algorithm: algorithm,
			X: base64.RawURLEncoding.EncodeToString(point[1 : 1+half]), Y: base64.RawURLEncoding.EncodeToString(point[1+half:]),
		})
	}
	return json.Marshal(set)
}
