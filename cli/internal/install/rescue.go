package install

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/output"
)

// RescueOptions of what is done with the data of a master; all fields are required.
type RescueOptions struct {
	Layout   Layout
	Services Services
	Progress *output.Progress
	// Timeout of waiting for the master to lead.
	Timeout time.Duration
}

// Rescue is a master whose data can be looked at and made anew.
type Rescue struct {
	o      RescueOptions
	member Member
}

// OpenRescue fails on a machine that is no master.
func OpenRescue(o RescueOptions) (*Rescue, error) {
	member, ok, err := ReadMember(o.Layout)
	if err != nil {
		return nil, err
	}
	if !ok || !member.Master {
		return nil, errors.New("this machine is no master: run this on the master that is to go on")
	}
	return &Rescue{o: o, member: member}, nil
}

// Member is the master's own description.
func (r *Rescue) Member() Member { return r.member }

// SnapshotContent is what a restoration on trial has found.
type SnapshotContent struct {
	Header struct {
		ClusterID  string    `json:"clusterID"`
		Generation uint64    `json:"generation"`
		Master     string    `json:"master"`
		Revision   int64     `json:"revision"`
		Epoch      uint64    `json:"epoch"`
		Time       time.Time `json:"time"`
		Version    string    `json:"version"`
		Members    []struct {
			Name        string `json:"name"`
			PeerAddress string `json:"peerAddress"`
			Role        string `json:"role"`
		} `json:"members"`
	} `json:"header"`
	Revision   int64    `json:"revision"`
	Objects    int      `json:"objects"`
	Unreadable []string `json:"unreadable,omitempty"`
}

// RescueOutcome is what became of the data.
type RescueOutcome struct {
	Revision   int64    `json:"revision"`
	Generation uint64   `json:"generation"`
	GivenUp    []string `json:"givenUp,omitempty"`
	Aside      []string `json:"aside,omitempty"`
}

// from says where the cluster goes on; of a separate etcd's data nothing is changed.
func (o *RescueOutcome) from() string {
	if o.Revision == 0 {
		return ""
	}
	return fmt.Sprintf(", from revision %d", o.Revision)
}

// Verify restores a snapshot on trial: a file, or a name in this master's archive.
func (r *Rescue) Verify(ctx context.Context, snapshot string) (*SnapshotContent, error) {
	content := &SnapshotContent{}
	return content, r.apiserver(ctx, content, "snapshot", "verify", snapshot)
}

// Restore makes this master the only one, with the objects of a snapshot, and returns once it
// leads and serves.
func (r *Rescue) Restore(ctx context.Context, snapshot string) (*RescueOutcome, error) {
	return r.remake(ctx, "snapshot", "restore", snapshot)
}

// Recover makes this master the only one, with its own objects, and returns once it leads
// and serves.
func (r *Rescue) Recover(ctx context.Context) (*RescueOutcome, error) {
	return r.remake(ctx, "recover")
}

// Masters returns the status of the masters as this one knows them: from its apiserver if that
// answers, else the names from its data, in which case the rest is empty.
func (r *Rescue) Masters(ctx context.Context) (*mastersv1pb.StatusResponse, error) {
	status, err := r.status(ctx)
	if err == nil {
		return status, nil
	}
	var data struct {
		ClusterID  string
		Generation uint64
		Members    []struct {
			Name string `json:"name"`
		}
	}
	if dataErr := r.apiserver(ctx, &data, "masters"); dataErr != nil {
		return nil, fmt.Errorf("neither the apiserver of this master (%s) nor its data (%w) tells who the masters are", access.Brief(err), dataErr)
	}
	status = &mastersv1pb.StatusResponse{ClusterId: data.ClusterID, Generation: data.Generation}
	for _, member := range data.Members {
		status.Members = append(status.Members, &mastersv1pb.Member{Name: member.Name})
	}
	return status, nil
}

// Leader asks every master that this machine's administrator knows, and returns one that leads;
// empty if none does, as far as can be known.
func (r *Rescue) Leader(ctx context.Context) (string, error) {
	admin, err := access.Load(r.o.Layout.AdminDir())
	if err != nil {
		return "", err
	}
	leaders := make([]string, len(admin.Cluster.Masters))
	var asked sync.WaitGroup
	for i, master := range admin.Cluster.Masters {
		asked.Go(func() {
			if status, err := r.statusAt(ctx, master.GRPC); err == nil && status.GetClusterId() == r.member.ClusterID {
				leaders[i] = status.GetLeader()
			}
		})
	}
	asked.Wait()
	return cmp.Or(leaders...), nil
}

func (r *Rescue) status(ctx context.Context) (*mastersv1pb.StatusResponse, error) {
	return r.statusAt(ctx, hostPort(r.member.Address, configv1.PortGRPC))
}

func (r *Rescue) statusAt(ctx context.Context, address string) (*mastersv1pb.StatusResponse, error) {
	id, err := pki.OpenIdentity(r.o.Layout.leaf(pki.ComponentAPIServer))
	if err != nil {
		return nil, err
	}
	conn, err := rpc.Dial(address, id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
}

// remake stops the programs of a master, has its data made anew and starts them again, also
// when it was not. Pods, and what a node needs, go on.
func (r *Rescue) remake(ctx context.Context, args ...string) (outcome *RescueOutcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	programs := slices.DeleteFunc(components(true), func(c component) bool { return !c.masterOnly })
	for _, c := range slices.Backward(programs) {
		if err := r.o.Services.Stop(ctx, c.program); err != nil {
			return nil, err
		}
	}
	r.o.Progress.Say("%s: programs of the master stopped", r.member.Name)
	outcome = &RescueOutcome{}
	err = r.apiserver(ctx, outcome, args...)
	for _, c := range programs {
		err = errors.Join(err, r.o.Services.Start(context.WithoutCancel(ctx), c.program))
	}
	if err != nil {
		return nil, err
	}
	r.o.Progress.Say("%s: data made anew%s; programs started", r.member.Name, outcome.from())
	return outcome, r.o.Progress.Wait(ctx, r.member.Name+": leads and serves", func(ctx context.Context) error {
		status, err := r.status(ctx)
		if err != nil {
			return fmt.Errorf("apiserver: %s (%s)", access.Brief(err), r.o.Services.LogHint(apiserver))
		}
		if status.GetLeader() != r.member.Name || status.GetEpoch() == 0 {
			return errors.New("apiserver: this master does not lead yet")
		}
		return nil
	})
}

// apiserver runs a command of the apiserver program and decodes what it prints.
func (r *Rescue) apiserver(ctx context.Context, into any, args ...string) error {
	program := filepath.Join(r.member.BinDir, apiserver)
	c := exec.CommandContext(ctx, program, append(args, "--config", r.o.Layout.config(apiserver))...)
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	if err := c.Run(); err != nil {
		if _, missing := os.Stat(program); missing != nil {
			return missing
		}
		return errors.New(lastLine(complaint.String(), err))
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("answer of %s %s: %w", program, strings.Join(args, " "), err)
	}
	return nil
}
