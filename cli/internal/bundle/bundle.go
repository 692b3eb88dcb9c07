// Package bundle checks release archives: that whoever holds the release key has signed
// every byte, and that the files in them are those that they list.
package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Bundle is an archive that was found to be right.
type Bundle struct {
	// Name of the one directory in it, such as kijabi-0.1.0.
	Name string
	// Files in it, without the list of checksums.
	Files int
	// Size of the files, unpacked.
	Size int64
}

// Verify checks an archive against its signature by the public key in a PEM file, and
// the files in it against the checksums that it carries. An empty signature means the
// file beside the archive with .sig added. Nothing in the archive is looked at before
// the signature is found to be right.
func Verify(archive, signature, key string) (*Bundle, error) {
	if signature == "" {
		signature = archive + ".sig"
	}
	public, err := loadPublic(key)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(archive)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if !bytes.HasPrefix(content, []byte{0x1f, 0x8b}) {
		return nil, fmt.Errorf("bundle %s is no .tar.gz archive: name the file kijabi-VERSION-linux-ARCH.tar.gz", archive)
	}
	sig, err := os.ReadFile(signature)
	if err != nil {
		return nil, fmt.Errorf("signature of the bundle: %w: get it from where the archive is from", err)
	}
	if len(sig) != ed25519.SignatureSize {
		return nil, fmt.Errorf("signature %s has %d bytes, not %d: it is no Ed25519 signature, get it again", signature, len(sig), ed25519.SignatureSize)
	}
	if !ed25519.Verify(public, content, sig) {
		return nil, fmt.Errorf("bundle %s: %s: do not install it", archive, unsigned(archive, key, content))
	}
	found, err := inspect(content)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: it is signed, but %w: do not install it, and tell whoever released it", archive, err)
	}
	return found, nil
}

// unsigned says why a signature may be wrong. The checksum beside the archive proves
// nothing, but tells damage from another key.
func unsigned(archive, key string, content []byte) string {
	sum := sha256.Sum256(content)
	beside, err := os.ReadFile(archive + ".sha256")
	fields := strings.Fields(string(beside))
	switch {
	case err != nil || len(fields) == 0:
		return fmt.Sprintf("its signature is not by %s: it was changed or cut short since, or signed with another key", key)
	case fields[0] == hex.EncodeToString(sum[:]):
		return fmt.Sprintf("its signature is not by %s but by another key, or belongs to another archive", key)
	default:
		return fmt.Sprintf("it was changed or cut short since it was made (%s.sha256 differs as well); get it again", filepath.Base(archive))
	}
}

func loadPublic(path string) (ed25519.PublicKey, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	block, _ := pem.Decode(content)
	switch {
	case block == nil:
		return nil, fmt.Errorf("public key %s is no PEM file: name kijabi.pub with --key", path)
	case block.Type == "PRIVATE KEY":
		return nil, fmt.Errorf("key %s is a private key: name the public one, kijabi.pub, with --key", path)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", path, err)
	}
	public, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("public key " + path + " is no Ed25519 key: name kijabi.pub with --key")
	}
	return public, nil
}
