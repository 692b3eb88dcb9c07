package remote

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// TrustConfig of OpenTrust.
type TrustConfig struct {
	// Files are known_hosts files; those that do not exist are empty. New keys are
	// written to the first. Required.
	Files []string
	// AcceptNew adds the key of a machine that is not known. A key that has changed is
	// refused all the same.
	AcceptNew bool
	// Accepted is told of each key that was added. May be nil.
	Accepted func(name, fingerprint string)
}

// Trust decides which host keys are right. Safe for concurrent use.
type Trust struct {
	cfg TrustConfig

	mu    sync.Mutex // guards the files and known, which is made of them
	known ssh.HostKeyCallback
}

// OpenTrust reads the known_hosts files.
func OpenTrust(cfg TrustConfig) (*Trust, error) {
	t := &Trust{cfg: cfg}
	return t, t.read()
}

func (t *Trust) read() error {
	var present []string
	for _, path := range t.cfg.Files {
		if _, err := os.Stat(path); err == nil {
			present = append(present, path)
		}
	}
	known, err := knownhosts.New(present...)
	if err != nil {
		return fmt.Errorf("known hosts: %w", err)
	}
	t.known = known
	return nil
}

// check accepts or refuses a host's key, with an error that says what to do.
func (t *Trust) check(target Target, address string, remote net.Addr, key ssh.PublicKey) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.known(address, remote, key)
	var mismatch *knownhosts.KeyError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &mismatch):
		return fmt.Errorf("its host key is refused: %w", err)
	case len(mismatch.Want) > 0:
		return changed(address, key, mismatch.Want[0])
	case t.cfg.AcceptNew:
		return t.accept(target, address, key)
	}
	return fmt.Errorf("its host key is not known: if `ssh-keygen -l -f` on the machine shows %s for its %s key, add this line to %s or run again with --accept-new: %s",
		ssh.FingerprintSHA256(key), key.Type(), t.cfg.Files[0], line(address, key))
}

func changed(address string, key ssh.PublicKey, want knownhosts.KnownKey) error {
	return fmt.Errorf("its host key has changed: it shows %s %s, and %s line %d has %s %s: if the machine was installed anew, remove the old key with `ssh-keygen -f %s -R '%s'`; if not, somebody else answers there",
		key.Type(), ssh.FingerprintSHA256(key), want.Filename, want.Line, want.Key.Type(), ssh.FingerprintSHA256(want.Key),
		want.Filename, knownhosts.Normalize(address))
}

func line(address string, key ssh.PublicKey) string {
	return knownhosts.Line([]string{knownhosts.Normalize(address)}, key)
}

// accept adds the key to the first file.
func (t *Trust) accept(target Target, address string, key ssh.PublicKey) error {
	path := t.cfg.Files[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("known hosts: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("known hosts: %w", err)
	}
	defer func() { _ = file.Close() }()
	text := line(address, key) + "\n"
	if size, err := file.Seek(0, 2); err == nil && size > 0 {
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, size-1); err == nil && !bytes.Equal(last, []byte("\n")) {
			text = "\n" + text
		}
	}
	if _, err := file.WriteString(text); err != nil {
		return fmt.Errorf("known hosts: %w", err)
	}
	if t.cfg.Accepted != nil {
		t.cfg.Accepted(target.Name, ssh.FingerprintSHA256(key))
	}
	return t.read()
}

// algorithms are the key types to ask a host for: those that are known of it. A host
// has keys of several types, and would otherwise show one that nobody has written down.
func (t *Trust) algorithms(address string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	probe, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil
	}
	var mismatch *knownhosts.KeyError
	if !errors.As(t.known(address, &net.TCPAddr{}, probe), &mismatch) {
		return nil
	}
	var types []string
	for _, want := range mismatch.Want {
		if want.Key.Type() == ssh.KeyAlgoRSA {
			types = append(types, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		types = append(types, want.Key.Type())
	}
	return types
}
