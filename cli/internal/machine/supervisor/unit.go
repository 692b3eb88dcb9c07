// Package supervisor starts the programs of one machine and keeps them running.
//
// It reads unit files, starts the enabled ones in order, restarts what ends with a
// growing delay, keeps their output in bounded log files, reaps orphans when it is
// process 1, and answers requests on a unix socket. All state is owned by one
// goroutine, so no request sees a half-made change.
package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// KillMode says what a stop reaches.
type KillMode string

const (
	// KillAll stops every process the unit has started.
	KillAll KillMode = "control-group"
	// KillProcess stops the main process only. Containers and their shims outlive
	// the kubelet and containerd this way.
	KillProcess KillMode = "process"
)

// Unit is one program to run, the content of a unit file.
type Unit struct {
	// Name of the unit and of its log file. Required, and equal to the file's name.
	Name string `json:"name"`
	// Description for people.
	Description string `json:"description,omitempty"`
	// Exec is the program, an absolute path, and its arguments. Required.
	Exec []string `json:"exec"`
	// Env holds NAME=value entries; nothing is inherited but a default PATH.
	Env []string `json:"env,omitempty"`
	// After names units that are started before this one and stopped after it.
	After []string `json:"after,omitempty"`
	// Disabled units wait for an explicit start.
	Disabled bool `json:"disabled,omitempty"`
	// StopSignal is SIGTERM (default), SIGINT, SIGQUIT or SIGKILL.
	StopSignal string `json:"stopSignal,omitempty"`
	// StopTimeout passes before SIGKILL; default 10 s.
	StopTimeout metav1.Duration `json:"stopTimeout,omitzero"`
	// KillMode is "control-group" (default) or "process".
	KillMode KillMode `json:"killMode,omitempty"`
	// LogMaxBytes is the size at which the log file is rotated, default 10 MiB; one
	// old file is kept.
	LogMaxBytes int64 `json:"logMaxBytes,omitempty"`
	// FileDescriptorStoreMax is how many descriptors, such as sockets, the program may
	// leave with the service manager for its next run, after a restart or a crash; 0
	// means none. A stop closes them. See package sockets of platform.
	FileDescriptorStoreMax int `json:"fileDescriptorStoreMax,omitempty"`
	// RawNetwork: the program puts addresses on interfaces and sends raw packets. It matters to
	// service managers that confine programs; this one does not.
	RawNetwork bool `json:"rawNetwork,omitempty"`
}

const (
	defaultStopTimeout = 10 * time.Second
	defaultLogBytes    = 10 << 20
)

// Validate reports everything wrong with the unit at once.
func (u *Unit) Validate() error {
	var errs []error
	if u.Name == "" || strings.ContainsAny(u.Name, "/\x00 ") || strings.HasPrefix(u.Name, ".") {
		errs = append(errs, fmt.Errorf("name %q: want a plain file name", u.Name))
	}
	if len(u.Exec) == 0 || !filepath.IsAbs(u.Exec[0]) {
		errs = append(errs, errors.New("exec: want an absolute path and arguments"))
	}
	if _, ok := stopSignals()[u.StopSignal]; !ok {
		errs = append(errs, fmt.Errorf("stopSignal %q: want SIGTERM, SIGINT, SIGQUIT or SIGKILL", u.StopSignal))
	}
	if u.KillMode != "" && u.KillMode != KillAll && u.KillMode != KillProcess {
		errs = append(errs, fmt.Errorf("killMode %q: want control-group or process", u.KillMode))
	}
	if u.FileDescriptorStoreMax < 0 {
		errs = append(errs, fmt.Errorf("fileDescriptorStoreMax %d: want 0 or more", u.FileDescriptorStoreMax))
	}
	return errors.Join(errs...)
}

func (u *Unit) stopTimeout() time.Duration {
	if u.StopTimeout.Duration > 0 {
		return u.StopTimeout.Duration
	}
	return defaultStopTimeout
}

// LoadUnits reads every *.yaml of dir, ordered so that each unit follows those it
// names in After, otherwise by name. A missing directory holds no units.
func LoadUnits(dir string) ([]Unit, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("units in %s: %w", dir, err)
	}
	sort.Strings(paths)
	units := make([]Unit, 0, len(paths))
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("unit file: %w", err)
		}
		var unit Unit
		if err := yaml.UnmarshalStrict(content, &unit); err != nil {
			return nil, fmt.Errorf("unit file %s: %w", path, err)
		}
		if err := unit.Validate(); err != nil {
			return nil, fmt.Errorf("unit file %s: %w", path, err)
		}
		if unit.Name != strings.TrimSuffix(filepath.Base(path), ".yaml") {
			return nil, fmt.Errorf("unit file %s: name %q differs from the file's", path, unit.Name)
		}
		units = append(units, unit)
	}
	return order(units)
}

// order sorts topologically and keeps the given order among equals.
func order(units []Unit) ([]Unit, error) {
	known := make(map[string]bool, len(units))
	for _, unit := range units {
		known[unit.Name] = true
	}
	placed := make(map[string]bool, len(units))
	sorted := make([]Unit, 0, len(units))
	for len(sorted) < len(units) {
		before := len(sorted)
		for _, unit := range units {
			if placed[unit.Name] {
				continue
			}
			// A unit named in After that does not exist is no obstacle: node units
			// name master units.
			if slices.ContainsFunc(unit.After, func(name string) bool { return known[name] && !placed[name] }) {
				continue
			}
			placed[unit.Name] = true
			sorted = append(sorted, unit)
		}
		if len(sorted) == before {
			return nil, errors.New("units wait for each other in a circle (after)")
		}
	}
	return sorted, nil
}
