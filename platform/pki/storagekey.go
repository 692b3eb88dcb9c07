package pki

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// StorageKeyFile is the file of the pki directory that holds the keys objects are sealed
// with at rest. All masters hold the same.
const StorageKeyFile = "encryption.key"

const (
	blockStorageKey = "KIJABI STORAGE KEY"
	storageKeySize  = 32
)

// StorageKey wraps the data keys that objects are sealed with at rest.
type StorageKey struct {
	// ID names the key in what is stored: 16 hexadecimal digits that follow from the secret
	// and tell nothing of it.
	ID string
	// Secret is 32 bytes.
	Secret []byte
}

// NewStorageKey makes a key, in PEM.
func NewStorageKey() []byte {
	var secret [storageKeySize]byte
	_, _ = rand.Read(secret[:]) // never fails; crypto/rand ends the program instead
	return encodeStorageKey(secret[:])
}

// DeriveStorageKey makes the key of a cluster that was founded without one from a private key
// that all of its masters hold, so that each comes to the same without asking the others.
func DeriveStorageKey(keyPEM []byte) ([]byte, error) {
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	scalar, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("derive the storage key: %w", err)
	}
	secret, err := hkdf.Key(sha256.New, scalar, nil, "kijabi storage key", storageKeySize)
	if err != nil {
		return nil, fmt.Errorf("derive the storage key: %w", err)
	}
	return encodeStorageKey(secret), nil
}

// ParseStorageKeys reads a file of one or more keys: the first seals, all open.
func ParseStorageKeys(keysPEM []byte) ([]StorageKey, error) {
	var keys []StorageKey
	for rest := keysPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != blockStorageKey || len(block.Bytes) != storageKeySize {
			return nil, fmt.Errorf("storage key %d is a PEM block %q of %d bytes, want %q of %d", len(keys)+1, block.Type, len(block.Bytes), blockStorageKey, storageKeySize)
		}
		keys = append(keys, StorageKey{ID: storageKeyID(block.Bytes), Secret: block.Bytes})
	}
	if len(keys) == 0 {
		return nil, errors.New("no PEM storage key found")
	}
	return keys, nil
}

func encodeStorageKey(secret []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockStorageKey, Bytes: secret})
}

func storageKeyID(secret []byte) string {
	sum := sha256.Sum256(append([]byte("kijabi storage key id"), secret...))
	return hex.EncodeToString(sum[:8])
}
