// Package faults breaks a running cluster in the ways of the fault matrix, one file for each
// kind of fault. A fault that does not take effect is an error, never passed over.
package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"kijabi.dev/test/faults/internal/cluster"
)

// Scene is where a fault is injected.
type Scene struct {
	Cluster *cluster.Cluster
	// Leader is the leading master, Epoch its epoch.
	Leader string
	Epoch  uint64
	// Pick makes the choices that a fault leaves open.
	Pick *rand.Rand
}

// follower is one that does not lead.
func (s Scene) follower() string {
	others := s.Cluster.Others(s.Leader)
	return others[s.Pick.IntN(len(others))]
}

// Fault is one way to break a cluster.
type Fault struct {
	// ID is the fault's number in the matrix, and its variant.
	ID string
	// About says what is done.
	About string
	// Hold is how long the fault lasts, once writes are acknowledged again.
	Hold time.Duration
	// Limit is how long until a write is acknowledged again through every surviving master.
	Limit time.Duration
	// Rest is how long the cluster may take until it is whole again after healing; 0 means a minute.
	Rest time.Duration
	// NoQuorum says that no write may be acknowledged while the fault lasts.
	NoQuorum bool
	// AtLeast says how fast an acknowledged write must not be: less means that it was not yet on
	// the disks of a majority.
	AtLeast time.Duration
	// KeepsLeader says that leadership must not change.
	KeepsLeader bool
	// Gentle says that clients do next to nothing meanwhile.
	Gentle bool
	// Inject breaks the cluster.
	Inject func(ctx context.Context, s Scene) (*Injection, error)
}

// Injection is a fault that has been injected.
type Injection struct {
	// Victims are the masters through which no client can count on writing.
	Victims []string
	// Killed are the masters whose programs were ended without asking them, or could not write:
	// their logs may lack what happened meanwhile and just before.
	Killed []string
	// Verify is called before Heal and fails when the fault took no effect.
	Verify func(ctx context.Context) error
	// Heal ends the fault. It is called also when the run has failed.
	Heal func(ctx context.Context) error
}

// All are the faults that can be injected here, in the order of the matrix.
func All() []Fault {
	return slices.Concat(kills(), power(), lostDisk(), fullDisk(), slowDisk(), brokenDisk(), suspend(), partitions(), loss(),
		pauses(), flips(), watchers(), certificates(), memory(), starvation(), deadWebhooks(), garbage(), calm())
}

// NotInjectable are the faults of the suite's list that cannot be injected here, and why.
func NotInjectable() map[string]string {
	return map[string]string{
		"F9 (clock set by a day)": "a running Go program's wall clock can only be changed by setting the host's, which others use",
	}
}

// Choose returns the faults named in a comma-separated list: an ID, or the part of it before
// the slash for all variants.
func Choose(list string) ([]Fault, error) {
	var chosen []Fault
	for name := range strings.SplitSeq(list, ",") {
		n := len(chosen)
		for _, f := range All() {
			if number, _, _ := strings.Cut(f.ID, "/"); f.ID == name || number == name {
				chosen = append(chosen, f)
			}
		}
		if len(chosen) == n {
			return nil, fmt.Errorf("there is no fault %q: `-list` lists them", name)
		}
	}
	return chosen, nil
}

func nothing(context.Context) error { return nil }

// and joins two injections.
func (in *Injection) and(other *Injection) *Injection {
	return &Injection{
		Victims: append(in.Victims, other.Victims...), Killed: append(in.Killed, other.Killed...),
		Verify: func(ctx context.Context) error { return errors.Join(in.Verify(ctx), other.Verify(ctx)) },
		Heal:   func(ctx context.Context) error { return errors.Join(in.Heal(ctx), other.Heal(ctx)) },
	}
}
