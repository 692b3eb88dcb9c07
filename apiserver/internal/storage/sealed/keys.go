package sealed

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
)

// reloadEvery is how often the file of keys is looked at for a change.
const reloadEvery = 10 * time.Second

// Keys are the cluster's keys for data at rest, as a file holds them: the first seals, all
// open. All methods are safe for concurrent use.
type Keys struct {
	file string
	log  *zap.Logger

	mu      sync.RWMutex
	content []byte
	ring    map[keyID]cipher.AEAD
	first   keyID
	names   []string
	changed chan struct{} // closed at the next change
}

// keyID is a pki.StorageKey's ID in binary.
type keyID [8]byte

func (k keyID) String() string { return hex.EncodeToString(k[:]) }

// OpenKeys reads the file.
func OpenKeys(file string, log *zap.Logger) (*Keys, error) {
	k := &Keys{file: file, log: log, changed: make(chan struct{})}
	if err := k.reload(); err != nil {
		return nil, err
	}
	return k, nil
}

// Run follows changes of the file until ctx ends. A file that cannot be used changes nothing.
func (k *Keys) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lifecycle.UntilBeat(time.Now(), reloadEvery)):
		}
		if err := k.reload(); err != nil {
			k.log.Error("storage keys not reloaded", zap.Error(err))
		}
	}
}

// Changed returns a channel that is closed at the next change of the keys.
func (k *Keys) Changed() <-chan struct{} {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.changed
}

// Sealing is the ID of the key that seals.
func (k *Keys) Sealing() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.first.String()
}

// Wrap seals a secret for the given purpose with the key that seals, and returns that key's ID.
func (k *Keys) Wrap(purpose string, secret []byte) (id string, wrapped []byte) {
	first, key := k.sealing()
	return first.String(), key.Seal(nil, nil, secret, []byte(purpose))
}

// Unwrap opens what Wrap has sealed for the same purpose with the key of the given ID. It says
// which keys are held when that is not among them.
func (k *Keys) Unwrap(purpose, id string, wrapped []byte) ([]byte, error) {
	var needed keyID
	if n, err := hex.Decode(needed[:], []byte(id)); err != nil || n != len(needed) {
		return nil, fmt.Errorf("%q is no ID of a storage key", id)
	}
	key, err := k.opening(needed)
	if err != nil {
		return nil, err
	}
	secret, err := key.Open(nil, nil, wrapped, []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("what is wrapped with the key %s is damaged", id)
	}
	return secret, nil
}

func (k *Keys) reload() error {
	content, err := os.ReadFile(k.file)
	if err != nil {
		return fmt.Errorf("storage keys: %w", err)
	}
	k.mu.RLock()
	same := bytes.Equal(content, k.content)
	k.mu.RUnlock()
	if same {
		return nil
	}
	keys, err := pki.ParseStorageKeys(content)
	if err != nil {
		return fmt.Errorf("storage keys %s: %w", k.file, err)
	}
	ring, names := map[keyID]cipher.AEAD{}, make([]string, len(keys))
	var first keyID
	for i, key := range keys {
		var id keyID
		if _, err := hex.Decode(id[:], []byte(key.ID)); err != nil {
			return fmt.Errorf("storage key %s: %w", key.ID, err)
		}
		if ring[id], err = newAEAD(key.Secret); err != nil {
			return fmt.Errorf("storage key %s: %w", key.ID, err)
		}
		if i == 0 {
			first = id
		}
		names[i] = key.ID
	}
	k.mu.Lock()
	k.content, k.ring, k.first, k.names = content, ring, first, names
	close(k.changed)
	k.changed = make(chan struct{})
	k.mu.Unlock()
	k.log.Info("storage keys loaded", zap.String("sealing", names[0]), zap.Strings("opening", names))
	return nil
}

// sealing returns the key that seals.
func (k *Keys) sealing() (keyID, cipher.AEAD) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.first, k.ring[k.first]
}

// opening returns a key by its id; a file that has just been given the key is read again.
func (k *Keys) opening(id keyID) (cipher.AEAD, error) {
	for again := false; ; again = true {
		k.mu.RLock()
		key, names := k.ring[id], k.names
		k.mu.RUnlock()
		if key != nil {
			return key, nil
		}
		if again {
			return nil, fmt.Errorf("it is sealed with the key %s, and %s holds only %s", id, k.file, strings.Join(names, ", "))
		}
		if err := k.reload(); err != nil {
			return nil, fmt.Errorf("it is sealed with the key %s: %w", id, err)
		}
	}
}

// newAEAD returns AES-256-GCM that begins what it seals with a random nonce.
func newAEAD(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
