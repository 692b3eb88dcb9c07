// Package certificatestest holds the contract of certificates.TokenStore as tests,
// and a store in memory that fulfils it.
package certificatestest

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/certificates"
)

// Store is a TokenStore in memory.
type Store struct {
	mu      sync.Mutex
	version int
	records map[string]certificates.Record
}

var _ certificates.TokenStore = (*Store)(nil)

// NewStore returns an empty store.
func NewStore() *Store { return &Store{records: map[string]certificates.Record{}} }

func resource() schema.GroupResource { return schema.GroupResource{Resource: "jointokens"} }

func clone(record certificates.Record) certificates.Record {
	record.SecretHash = slices.Clone(record.SecretHash)
	record.Issued = maps.Clone(record.Issued)
	return record
}

// Get returns a record.
func (s *Store) Get(_ context.Context, id string) (certificates.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	record, ok := s.records[id]
	if !ok {
		return certificates.Record{}, apierrors.NewNotFound(resource(), id)
	}
	return clone(record), nil
}

// Create adds a record.
func (s *Store) Create(_ context.Context, record certificates.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.records[record.ID]; ok {
		return apierrors.NewAlreadyExists(resource(), record.ID)
	}
	s.put(record)
	return nil
}

// Update replaces a record.
func (s *Store) Update(_ context.Context, record certificates.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.records[record.ID]
	if !ok {
		return apierrors.NewNotFound(resource(), record.ID)
	}
	if old.Version != record.Version {
		return apierrors.NewConflict(resource(), record.ID, nil)
	}
	s.put(record)
	return nil
}

// put stores under a new version.
func (s *Store) put(record certificates.Record) {
	s.version++
	record = clone(record)
	record.Version = strconv.Itoa(s.version)
	s.records[record.ID] = record
}

// Delete removes a record.
func (s *Store) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, id)
	return nil
}

// List returns all records.
func (s *Store) List(context.Context) ([]certificates.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []certificates.Record
	for _, record := range s.records {
		list = append(list, clone(record))
	}
	return list, nil
}

// TestTokenStore checks that what open returns, an empty store each time, fulfils
// the contract.
func TestTokenStore(t *testing.T, open func(t *testing.T) certificates.TokenStore) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, certificates.TokenStore){
		"keeps all fields": keepsAllFields,
		"errors":           errorReasons,
		"compares version": comparesVersion,
		"swaps once":       swapsOnce,
		"list and delete":  listAndDelete,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func sample(id string) certificates.Record {
	return certificates.Record{
		ID: id, Master: true, SecretHash: []byte{0, 1, 0xff}, CreatedBy: "jane", UsesLeft: 3,
		Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		Issued:  map[string]string{"m1.example/apiserver": "abc", "m1.example/kube-proxy": "def"},
	}
}

func mustCreate(t *testing.T, store certificates.TokenStore, record certificates.Record) certificates.Record {
	t.Helper()
	if err := store.Create(t.Context(), record); err != nil {
		t.Fatalf("create %s: %v", record.ID, err)
	}
	return mustGet(t, store, record.ID)
}

func mustGet(t *testing.T, store certificates.TokenStore, id string) certificates.Record {
	t.Helper()
	record, err := store.Get(t.Context(), id)
	if err != nil {
		t.Fatalf("get %s: %v", id, err)
	}
	return record
}

func same(t *testing.T, want, got certificates.Record) {
	t.Helper()
	want.Version, got.Version = "", ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func keepsAllFields(t *testing.T, store certificates.TokenStore) {
	want := sample("00000000aa")
	got := mustCreate(t, store, want)
	same(t, want, got)
	if got.Version == "" {
		t.Error("a kept record has no version")
	}
	got.UsesLeft, got.Master = certificates.Unlimited, false
	got.Issued["n1/dns"] = "123"
	if err := store.Update(t.Context(), got); err != nil {
		t.Fatalf("update: %v", err)
	}
	same(t, got, mustGet(t, store, want.ID))
}

func errorReasons(t *testing.T, store certificates.TokenStore) {
	if _, err := store.Get(t.Context(), "00000000aa"); !apierrors.IsNotFound(err) {
		t.Errorf("get of nothing: %v", err)
	}
	missing := sample("00000000aa")
	missing.Version = "1"
	if err := store.Update(t.Context(), missing); !apierrors.IsNotFound(err) {
		t.Errorf("update of nothing: %v", err)
	}
	mustCreate(t, store, sample("00000000aa"))
	if err := store.Create(t.Context(), sample("00000000aa")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
}

func comparesVersion(t *testing.T, store certificates.TokenStore) {
	first := mustCreate(t, store, sample("00000000aa"))
	second := first
	second.UsesLeft = 1
	if err := store.Update(t.Context(), second); err != nil {
		t.Fatalf("update: %v", err)
	}
	first.UsesLeft = 2
	if err := store.Update(t.Context(), first); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v", err)
	}
	if got := mustGet(t, store, first.ID); got.UsesLeft != 1 {
		t.Errorf("%d uses are left, want 1", got.UsesLeft)
	}
}

func swapsOnce(t *testing.T, store certificates.TokenStore) {
	record := mustCreate(t, store, sample("00000000aa"))
	var won atomic.Int32
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			mine := clone(record)
			mine.UsesLeft--
			switch err := store.Update(t.Context(), mine); {
			case err == nil:
				won.Add(1)
			case !apierrors.IsConflict(err):
				t.Errorf("update: %v", err)
			}
		})
	}
	wait.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 8 updates of one version succeeded", won.Load())
	}
}

func listAndDelete(t *testing.T, store certificates.TokenStore) {
	mustCreate(t, store, sample("00000000aa"))
	mustCreate(t, store, sample("00000000bb"))
	if got := ids(t, store); !slices.Equal(got, []string{"00000000aa", "00000000bb"}) {
		t.Errorf("list is %q", got)
	}
	for range 2 {
		if err := store.Delete(t.Context(), "00000000aa"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if got := ids(t, store); !slices.Equal(got, []string{"00000000bb"}) {
		t.Errorf("list after a delete is %q", got)
	}
}

func ids(t *testing.T, store certificates.TokenStore) []string {
	t.Helper()
	list, err := store.List(t.Context())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	var ids []string
	for _, record := range list {
		ids = append(ids, record.ID)
	}
	slices.Sort(ids)
	return ids
}
