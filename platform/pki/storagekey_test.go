package pki

import (
	"bytes"
	"testing"
)

func TestStorageKeys(t *testing.T) {
	first, second := NewStorageKey(), NewStorageKey()
	keys, err := ParseStorageKeys(append(bytes.Clone(first), second...))
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys: %v", len(keys), err)
	}
	if keys[0].ID == keys[1].ID || len(keys[0].ID) != 16 || len(keys[0].Secret) != 32 || bytes.Equal(keys[0].Secret, keys[1].Secret) {
		t.Errorf("keys %s and %s are not two keys", keys[0].ID, keys[1].ID)
	}
	for name, wrong := range map[string][]byte{
		"empty": nil, "cut off": first[:len(first)/2],
		"of another type": bytes.ReplaceAll(first, []byte("STORAGE"), []byte("STOLEN ")),
	} {
		if keys, err := ParseStorageKeys(wrong); err == nil {
			t.Errorf("%s file gives %d keys", name, len(keys))
		}
	}
}

// Masters of a cluster that has no key yet must come to the same one, each by itself.
func TestDerivedStorageKey(t *testing.T) {
	derive := func(ca *CA) string {
		t.Helper()
		keyPEM, err := ca.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		derived, err := DeriveStorageKey(keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := ParseStorageKeys(derived)
		if err != nil {
			t.Fatal(err)
		}
		return keys[0].ID
	}
	a, err := NewCA("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewCA("b", 0)
	if err != nil {
		t.Fatal(err)
	}
	if first, again := derive(a), derive(a); first != again {
		t.Error("one private key gives two storage keys")
	}
	if derive(a) == derive(b) {
		t.Error("two private keys give one storage key")
	}
}
