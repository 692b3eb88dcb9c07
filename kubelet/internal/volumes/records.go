package volumes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"

	"kijabi.dev/platform/atomicfile"
)

// Origin says whose word about volumes it is: a cluster, and how often that cluster's data
// was restored or recovered, which may have made it forget what it once knew.
type Origin struct {
	Cluster    string `json:"cluster"`
	Generation uint64 `json:"generation"`
}

// record is a volume's directory that this kubelet made or mounted.
type record struct {
	// Claim is namespace/name of the claim, for people.
	Claim string `json:"claim"`
	// Known is by whom the PersistentVolume was last said to exist; zero until one was asked.
	Known Origin `json:"known"`
}

// records is the list of them, in a file apart from the directories: only what is on it is
// ever removed, and what is on it but not on the disk is missing, not new. Safe for
// concurrent use.
type records struct {
	path string

	mu   sync.Mutex
	list map[string]record // nil until it was read
}

// read returns the list; called with mu held.
func (r *records) read() (map[string]record, error) {
	if r.list != nil {
		return r.list, nil
	}
	list := map[string]record{}
	data, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		r.list = list
		return list, nil
	}
	if err != nil {
		return nil, fmt.Errorf("records of volumes: %w", err)
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("records of volumes %s: %w", r.path, err)
	}
	r.list = list
	return list, nil
}

// change writes a list with one record set, or without it if it is nil.
func (r *records) change(name string, to *record) error {
	list, err := r.read()
	if err != nil {
		return err
	}
	next := maps.Clone(list)
	if to == nil {
		delete(next, name)
	} else {
		next[name] = *to
	}
	data, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("records of volumes: %w", err)
	}
	if err := atomicfile.Write(r.path, data, 0o600); err != nil {
		return fmt.Errorf("records of volumes: %w", err)
	}
	r.list = next
	return nil
}

func (r *records) has(name string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, err := r.read()
	_, ok := list[name]
	return ok, err
}

// all returns a copy of the list.
func (r *records) all() (map[string]record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, err := r.read()
	return maps.Clone(list), err
}

// add notes a volume unless it is on the list.
func (r *records) add(name, claim string) (added bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, err := r.read()
	if err != nil {
		return false, err
	}
	if _, ok := list[name]; ok {
		return false, nil
	}
	return true, r.change(name, &record{Claim: claim})
}

// confirm notes who says that a volume exists.
func (r *records) confirm(name string, by Origin) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, err := r.read()
	if err != nil {
		return err
	}
	known, ok := list[name]
	if !ok || known.Known == by {
		return nil
	}
	known.Known = by
	return r.change(name, &known)
}

func (r *records) drop(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.change(name, nil)
}
