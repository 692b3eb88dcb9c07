// Package container makes a machine whose programs are containers a member of a
// cluster. It does what a person does on virtual machines: found the cluster on the
// first master, make a token for each other machine, and join with it. A directory that
// the setups of all machines share carries the tokens.
package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/output"
)

// Machine is the one to set up.
type Machine struct {
	// Name and Address of the machine. Required.
	Name, Address string
	// Layout of its files. Required.
	Layout install.Layout
	// BinDir is where programs and images are, in every container. Required.
	BinDir string
	// Invitations is the directory that the setups share. Required.
	Invitations string
	// Progress is told each step. May be nil.
	Progress *output.Progress
	// Timeout of each wait: for an invitation, for the programs to be healthy.
	Timeout time.Duration
}

func (m *Machine) options() install.Options {
	return install.Options{
		Layout: m.Layout, Name: m.Name, Address: m.Address, BinDir: m.BinDir, Progress: m.Progress, Timeout: m.Timeout,
		Services: m.services(), ProgramsElsewhere: true,
	}
}

func (m *Machine) services() install.Services {
	return &install.Containers{Layout: m.Layout, Machine: m.Name, Address: m.Address}
}

// member says whether the machine is a member already. What is left of a setup that was
// cut off is removed.
func (m *Machine) member(ctx context.Context) (bool, error) {
	member, ok, err := install.ReadMember(m.Layout)
	if err != nil {
		return false, err
	}
	if ok {
		if member.Name != m.Name || member.Address != m.Address {
			return false, fmt.Errorf("the volumes of this machine belong to %s at %s: give it back that name and address, or remove everything with `make compose-down`",
				member.Name, member.Address)
		}
		m.Progress.Say("%s: is a member of cluster %s", m.Name, member.ClusterID)
		return true, nil
	}
	if _, err := os.Stat(filepath.Join(m.Layout.StateDir, "pki")); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	m.Progress.Say("%s: removing an installation that did not finish", m.Name)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return false, install.Reset(ctx, install.ResetOptions{Layout: m.Layout, Services: m.services(), Local: true})
}

// foundedMark is the file that says that there is a cluster, and which.
func (m *Machine) foundedMark() string { return filepath.Join(m.Invitations, "cluster") }

// tokens is the file of a machine's tokens, one a line.
func (m *Machine) tokens(name string) string { return filepath.Join(m.Invitations, name+".tokens") }

// take takes the first of this machine's tokens out of its file. A token serves one
// attempt: once it has given a certificate it gives none for another key.
func (m *Machine) take() (string, error) {
	content, err := os.ReadFile(m.tokens(m.Name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	token, rest, _ := strings.Cut(string(content), "\n")
	if token == "" {
		return "", fmt.Errorf("%s has no invitation: the setup of the first master writes it, start that again if it is used up", m.Name)
	}
	return token, atomicfile.Write(m.tokens(m.Name), []byte(rest), 0o600)
}

// Found makes the machine the first master of a new cluster, unless it is one already.
// A cluster is founded once: a first master that has lost its disk does not found
// another one beside it.
func (m *Machine) Found(ctx context.Context) error {
	ok, err := m.member(ctx)
	if err != nil {
		return err
	}
	if !ok {
		if id, err := os.ReadFile(m.foundedMark()); err == nil {
			return fmt.Errorf("%s founded cluster %s and has lost its disk since: the other masters go on without it; start afresh with `make compose-down compose-up`",
				m.Name, strings.TrimSpace(string(id)))
		}
		if _, err := install.InitMaster(ctx, m.options()); err != nil {
			return err
		}
	}
	member, _, err := install.ReadMember(m.Layout)
	if err != nil {
		return err
	}
	return atomicfile.Write(m.foundedMark(), []byte(member.ClusterID+"\n"), 0o644)
}

// Join makes the machine a member of the cluster that the first of these masters that
// answers belongs to, unless it is a member already.
func (m *Machine) Join(ctx context.Context, master bool, through []string) error {
	ok, err := m.member(ctx)
	if err != nil {
		return err
	}
	if ok {
		return m.used()
	}
	var invitation install.Invitation
	wait, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	err = m.Progress.Wait(wait, m.Name+": invited", func(ctx context.Context) error {
		if invitation.Master, err = answering(ctx, through); err != nil {
			return err
		}
		if invitation.Token, err = m.take(); err != nil {
			return fmt.Errorf("%w (docker logs %[2]s-setup; docker start %[2]s-setup)", err, through[0])
		}
		return nil
	})
	if err != nil {
		return err
	}
	if master {
		err = install.JoinMaster(ctx, invitation, m.options())
	} else {
		err = install.JoinNode(ctx, invitation, m.options())
	}
	if err != nil {
		return err
	}
	return m.used()
}

// used removes what is left of the machine's tokens.
func (m *Machine) used() error {
	if err := os.Remove(m.tokens(m.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove tokens that are not needed any more: %w", err)
	}
	return nil
}

// answering returns the first master whose gRPC door accepts a connection.
func answering(ctx context.Context, masters []string) (string, error) {
	for _, master := range masters {
		dialer := net.Dialer{Timeout: time.Second}
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(master, strconv.Itoa(configv1.PortGRPC)))
		if err == nil {
			_ = conn.Close()
			return master, nil
		}
	}
	return "", fmt.Errorf("no master answers on port %d: tried %s", configv1.PortGRPC, strings.Join(masters, ", "))
}
