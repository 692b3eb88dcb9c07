// Package remote runs commands as root on machines that are reached over SSH.
//
// Host keys are checked strictly against the user's known_hosts; users log in with a
// key, from a file or an agent, never with a password. A user who is not root needs
// sudo without a password.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Target is a machine to reach.
type Target struct {
	// Name the machine is called by in messages. Required.
	Name string `json:"name"`
	// Address is HOST:PORT of its SSH server. Required.
	Address string `json:"address"`
	// User to log in as. Required.
	User string `json:"user"`
	// KeyFile is the private key to log in with. Without one the keys of the agent in
	// $SSH_AUTH_SOCK are tried, then the usual files in ~/.ssh that have no passphrase.
	KeyFile string `json:"keyFile,omitempty"`
}

// usualKeys are the files that ssh tries by itself.
func usualKeys() []string { return []string{"id_ed25519", "id_ecdsa", "id_rsa"} }

// keys returns the signers to log in with, and a closer of the agent's connection.
func (t Target) keys(ctx context.Context) ([]ssh.Signer, io.Closer, error) {
	agentKeys, closer, agentErr := keysOfAgent(ctx)
	if t.KeyFile != "" {
		signer, err := keyOfFile(t.KeyFile, agentKeys)
		if err != nil {
			_ = closer.Close()
			return nil, nil, err
		}
		return []ssh.Signer{signer}, closer, nil
	}
	signers := agentKeys
	if home, err := os.UserHomeDir(); err == nil {
		for _, name := range usualKeys() {
			if signer, err := keyOfFile(filepath.Join(home, ".ssh", name), nil); err == nil {
				signers = append(signers, signer)
			}
		}
	}
	if len(signers) == 0 {
		_ = closer.Close()
		if agentErr != nil {
			return nil, nil, agentErr
		}
		return nil, nil, errors.New("there is no SSH key to log in with: name one by keyFile, or add one to an agent with ssh-add")
	}
	return signers, closer, nil
}

// keyOfFile reads a private key. One with a passphrase is usable if the agent holds it.
func keyOfFile(path string, ofAgent []ssh.Signer) (ssh.Signer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(content)
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		if err != nil {
			return nil, fmt.Errorf("key file %s is no private key: %w", path, err)
		}
		return signer, nil
	}
	public := locked.PublicKey
	if public == nil {
		if content, err := os.ReadFile(path + ".pub"); err == nil {
			public, _, _, _, _ = ssh.ParseAuthorizedKey(content)
		}
	}
	if public != nil {
		i := slices.IndexFunc(ofAgent, func(s ssh.Signer) bool {
			return string(s.PublicKey().Marshal()) == string(public.Marshal())
		})
		if i >= 0 {
			return ofAgent[i], nil
		}
	}
	return nil, fmt.Errorf("key file %s has a passphrase: add it to an agent first with `ssh-add %s`", path, path)
}

type nothing struct{}

func (nothing) Close() error { return nil }

// keysOfAgent returns none when there is no agent.
func keysOfAgent(ctx context.Context) ([]ssh.Signer, io.Closer, error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, nothing{}, nil
	}
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nothing{}, fmt.Errorf("SSH agent of $SSH_AUTH_SOCK: %w", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		_ = conn.Close()
		return nil, nothing{}, fmt.Errorf("SSH agent of $SSH_AUTH_SOCK: %w", err)
	}
	return signers, conn, nil
}
