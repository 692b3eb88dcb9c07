package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/storage/sealed"
	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
)

// sharedFiles reads the key material that every master holds.
func sharedFiles(dir string) (map[string][]byte, error) {
	names := []string{pki.StorageKeyFile}
	for _, base := range []string{"ca", "peer-ca", "front-proxy-ca", "service-account"} {
		names = append(names, base+".crt", base+".key", base+".pub")
	}
	out := map[string][]byte{}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[name] = data
	}
	return out, nil
}

// encryptedResources are sealed at rest.
func encryptedResources(cfg *configv1.APIServerConfiguration) []string {
	return append([]string{"secrets"}, cfg.EncryptedResources...)
}

// openStorageKeys reads the keys that objects are sealed with at rest. A cluster that was
// founded without them gets its first key here: every master derives the same from the peer
// CA's key, once, and keeps it like all others.
func openStorageKeys(dir string, log *zap.Logger) (*sealed.Keys, error) {
	file := filepath.Join(dir, pki.StorageKeyFile)
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		peerKey, err := os.ReadFile(filepath.Join(dir, "peer-ca.key"))
		if err != nil {
			return nil, fmt.Errorf("storage key: %w", err)
		}
		key, err := pki.DeriveStorageKey(peerKey)
		if err != nil {
			return nil, fmt.Errorf("storage key: %w", err)
		}
		if err := atomicfile.Write(file, key, 0o600); err != nil {
			return nil, fmt.Errorf("storage key: %w", err)
		}
		log.Info("storage key made", zap.String("file", file))
	}
	return sealed.OpenKeys(file, log)
}
