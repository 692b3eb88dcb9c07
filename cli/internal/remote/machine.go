package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	dialTimeout = 10 * time.Second
	// loginTimeout is how long a machine, which may be busy, may take to let us in.
	loginTimeout = 30 * time.Second
	// undoTimeout is how long a command that was told to end may take to undo its work.
	undoTimeout = 90 * time.Second
	// A connection that is silent for keepaliveMisses times keepaliveEvery is dead.
	keepaliveEvery  = 15 * time.Second
	keepaliveMisses = 4
)

// Machine is a connection to a machine on which commands run as root. Safe for
// concurrent use.
type Machine struct {
	target Target
	client *ssh.Client
	sudo   bool

	watch sync.WaitGroup
	gone  chan struct{}
	once  sync.Once
}

// Dial connects to a machine and makes sure that commands can run as root there.
func Dial(ctx context.Context, target Target, trust *Trust) (*Machine, error) {
	signers, agent, err := target.keys(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = agent.Close() }() // the login is over by then
	client, err := connect(ctx, target, trust, signers)
	if err != nil {
		return nil, err
	}
	m := &Machine{target: target, client: client, gone: make(chan struct{})}
	m.watch.Go(m.keepAlive)
	if err := m.becomeRoot(ctx); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

func connect(ctx context.Context, target Target, trust *Trust, signers []ssh.Signer) (*ssh.Client, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", target.Address)
	if err != nil {
		return nil, unreachable(target, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(loginTimeout))
	var refused error
	config := &ssh.ClientConfig{
		User: target.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)}, HostKeyAlgorithms: trust.algorithms(target.Address),
		HostKeyCallback: func(address string, remote net.Addr, key ssh.PublicKey) error {
			refused = trust.check(target, address, remote, key)
			return refused
		},
	}
	transport, channels, requests, err := ssh.NewClientConn(conn, target.Address, config)
	switch {
	case err == nil:
		_ = conn.SetDeadline(time.Time{})
		return ssh.NewClient(transport, channels, requests), nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case refused != nil:
		err = refused
	case strings.Contains(err.Error(), "unable to authenticate"):
		err = fmt.Errorf("SSH at %s does not let %s in with %s: add the public key to ~%s/.ssh/authorized_keys there, or name another by user and keyFile",
			target.Address, target.User, describe(target, signers), target.User)
	default:
		err = fmt.Errorf("SSH at %s: %w", target.Address, err)
	}
	_ = conn.Close()
	return nil, err
}

func describe(target Target, signers []ssh.Signer) string {
	if target.KeyFile != "" {
		return "key " + target.KeyFile
	}
	return fmt.Sprintf("any of %d keys of agent and ~/.ssh", len(signers))
}

func unreachable(target Target, err error) error {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("SSH at %s: connection refused: start its SSH server, or correct address and port", target.Address)
	case errors.As(err, &dns):
		return fmt.Errorf("SSH at %s: the name is not known: correct the address, or write its IP", target.Address)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Errorf("SSH at %s: no route to host: is the machine up, and the address right?", target.Address)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("SSH at %s: no answer within %s: is the machine up, and the address right?", target.Address, dialTimeout)
	default:
		return fmt.Errorf("SSH at %s: %w", target.Address, err)
	}
}

// becomeRoot finds out whether commands need sudo, and whether that works.
func (m *Machine) becomeRoot(ctx context.Context) error {
	var id bytes.Buffer
	if err := m.run(ctx, "id -u", nil, &id, io.Discard); err != nil {
		return fmt.Errorf("run a command as %s: %w", m.target.User, err)
	}
	if m.sudo = strings.TrimSpace(id.String()) != "0"; !m.sudo {
		return nil
	}
	var complaint bytes.Buffer
	err := m.run(ctx, "sudo -n true", nil, io.Discard, &complaint)
	text := strings.TrimSpace(complaint.String())
	switch {
	case err == nil:
		return nil
	case strings.Contains(text, "password"):
		return fmt.Errorf("sudo asks %s for a password: let a line `%s ALL=(ALL) NOPASSWD: ALL` in /etc/sudoers.d allow it without, or deploy as root", m.target.User, m.target.User)
	case strings.Contains(text, "not found"):
		return fmt.Errorf("user %s is not root and there is no sudo: install it, or deploy as root", m.target.User)
	case text != "":
		return fmt.Errorf("sudo does not let %s be root: %s: allow it in /etc/sudoers.d, or deploy as root", m.target.User, firstLine(text))
	default:
		return fmt.Errorf("sudo: %w", err)
	}
}

func firstLine(text string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return first
}

// keepAlive ends a connection whose other end is gone, which a waiting read would
// never notice.
func (m *Machine) keepAlive() {
	ticker := time.NewTicker(keepaliveEvery)
	defer ticker.Stop()
	missed, answers := 0, make(chan struct{}, 2*keepaliveMisses)
	for {
		select {
		case <-m.gone:
			return
		case <-answers:
			missed = 0
		case <-ticker.C:
			if missed++; missed > keepaliveMisses {
				_ = m.client.Close()
				return
			}
			m.watch.Go(func() {
				if _, _, err := m.client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
					answers <- struct{}{}
				}
			})
		}
	}
}

// Close ends the connection and what still runs over it.
func (m *Machine) Close() error {
	m.once.Do(func() { close(m.gone) })
	err := m.client.Close()
	m.watch.Wait()
	return err
}
