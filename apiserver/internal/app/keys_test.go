package app

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap/zaptest"

	"kijabi.dev/platform/pki"
)

// Masters of a cluster without a storage key make the same one, each for itself, and hand it on.
func TestStorageKeyOfAnOlderCluster(t *testing.T) {
	ca, err := pki.NewCA("peer", 0)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	var handed [][]byte
	for range 2 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "peer-ca.key"), key, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second start finds it
			keys, err := openStorageKeys(dir, zaptest.NewLogger(t))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, keys.Sealing())
		}
		shared, err := sharedFiles(dir)
		if err != nil {
			t.Fatal(err)
		}
		handed = append(handed, shared[pki.StorageKeyFile])
		info, err := os.Stat(filepath.Join(dir, pki.StorageKeyFile))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v: %v", info.Mode(), err)
		}
	}
	if ids[0] != ids[1] || ids[0] != ids[2] || !bytes.Equal(handed[0], handed[1]) || len(handed[0]) == 0 {
		t.Errorf("keys %v differ", ids)
	}
}

// A key that is there is never replaced, even if it cannot be read.
func TestBrokenStorageKeyIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, pki.StorageKeyFile)
	if err := os.WriteFile(file, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openStorageKeys(dir, zaptest.NewLogger(t)); err == nil {
		t.Error("a broken file was accepted")
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "broken" {
		t.Errorf("the file is now %q: %v", content, err)
	}
}
