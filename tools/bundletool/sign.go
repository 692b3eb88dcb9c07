package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// loadKey reads a private key.
func loadKey(path string) (ed25519.PrivateKey, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("signing key %s: is no PEM file with a PKCS#8 private key: make one with `openssl genpkey -algorithm ed25519`", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("signing key %s: is no Ed25519 key: make one with `openssl genpkey -algorithm ed25519`", path)
	}
	return key, nil
}

// ensureKey makes a private key at path if there is none, and tells whether it did.
func ensureKey(path string) (made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, fmt.Errorf("signing key: %w", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return false, fmt.Errorf("signing key: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return false, fmt.Errorf("signing key: %w", err)
	}
	// Written beside and linked: a key that exists is never replaced, nor half there.
	file, err := os.CreateTemp(filepath.Dir(path), ".signing.key.*") // mode 0600
	if err != nil {
		return false, fmt.Errorf("signing key: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // its other name stays
	if err := errors.Join(pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), file.Sync(), file.Close()); err != nil {
		return false, fmt.Errorf("signing key %s: %w", path, err)
	}
	err = os.Link(file.Name(), path)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("signing key: %w", err)
	}
	return true, nil
}

// publicPEM is the key that others verify with.
func publicPEM(key ed25519.PrivateKey) ([]byte, error) {
	encoded, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: encoded}), nil
}
