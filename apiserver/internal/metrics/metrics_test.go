package metrics

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/flowcontrol"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/storage/memory"
	"kijabi.dev/apiserver/internal/storage/sealed"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/apiserver/internal/vip"
	"kijabi.dev/platform/lifecycle"
)

// read returns the metrics as Prometheus gets them.
func read(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, line+"\n") {
			name, _, _ := strings.Cut(line, "{")
			name, _, _ = strings.Cut(name, " ")
			var near []string
			for found := range strings.Lines(text) {
				if strings.HasPrefix(found, name) {
					near = append(near, found)
				}
			}
			t.Errorf("no line %q in\n%s", line, strings.Join(near, ""))
		}
	}
}

func TestRequests(t *testing.T) {
	m := New()
	list := Request{Door: DoorREST, Verb: "LIST", Version: "v1", Resource: "pods", Scope: "namespace"}
	create := Request{Door: DoorGRPC, Verb: "POST", Group: "apps", Version: "v1", Resource: "deployments", Scope: "namespace", Mutating: true, DryRun: true}
	watch := Request{Door: DoorREST, Verb: "WATCH", Version: "v1", Resource: "pods", Scope: "cluster", Long: true}
	for _, r := range []Request{list, list, create, watch} {
		m.Began(r)
	}
	const podsLabels = `component="apiserver",door="rest",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"`
	has(t, read(t, m),
		`apiserver_current_inflight_requests{request_kind="mutating"} 1`,
		`apiserver_current_inflight_requests{request_kind="readOnly"} 2`,
		`apiserver_longrunning_requests{`+podsLabels+`} 1`)
	for _, r := range []Request{list, list, create, watch} {
		m.Ended(r)
	}
	m.Answered(list, 200, 300*time.Millisecond)
	m.Answered(list, 200, 2*time.Second)
	m.Answered(create, 409, time.Millisecond)
	m.Watched("", "v1", "pods").Add(3)
	has(t, read(t, m),
		`apiserver_current_inflight_requests{request_kind="mutating"} 0`,
		`apiserver_current_inflight_requests{request_kind="readOnly"} 0`,
		`apiserver_longrunning_requests{`+podsLabels+`} 0`,
		`apiserver_request_total{code="200",component="apiserver",door="rest",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 2`,
		`apiserver_request_total{code="409",component="apiserver",door="grpc",dry_run="All",group="apps",resource="deployments",scope="namespace",subresource="",verb="POST",version="v1"} 1`,
		`apiserver_request_duration_seconds_bucket{component="apiserver",door="rest",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1",le="0.4"} 1`,
		`apiserver_request_duration_seconds_count{component="apiserver",door="rest",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 2`,
		`apiserver_watch_events_total{group="",resource="pods",version="v1"} 3`)
	for _, name := range []string{"process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_start_time_seconds ", "go_goroutines ", "go_memstats_heap_alloc_bytes "} {
		if !strings.Contains(read(t, m), "\n"+name) {
			t.Errorf("no %s", name)
		}
	}
}

// A store's state and batches show up as they are.
func TestStore(t *testing.T) {
	m := New()
	below := memory.New()
	refuse := false
	below.Fault = func([]store.Op) (bool, error) {
		if refuse {
			return false, store.ErrRefused
		}
		return true, nil
	}
	s, err := store.New(store.Config{
		Name: "m1", Backend: m.Backend(below), Log: zaptest.NewLogger(t),
		Indexer: func(store.Key, []byte) (store.Index, error) { return store.Index{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	progress := sealed.Progress{Total: 10, Stale: 3, Unreadable: 1}
	m.Follow(State{
		VIP: func() []vip.Status {
			return []vip.Status{{Address: netip.MustParseAddr("10.0.0.10"), Held: true, Conflicts: 2}}
		},
		Store: s, Resources: func() []schema.GroupResource {
			return []schema.GroupResource{{Resource: "pods"}, {Group: "apps", Resource: "deployments"}}
		},
		Masters: func() masters.Status {
			short := int64(-7)
			return masters.Status{LeaderChanges: 4, Warnings: []string{"one"}, Quorum: masters.Quorum{Voters: 3, Living: 2}, Members: []masters.MemberStatus{
				{Member: masters.Member{Name: "m1", Role: masters.Voter}, Alive: true, Leader: true, AppliedRevision: 70, DatabaseInUse: 50, DatabaseLimit: 100, DiskFree: &short, DiskLatency: 3 * time.Millisecond, CertificateEnd: time.Unix(1700000000, 0)},
				{Member: masters.Member{Name: "m2", Role: masters.Voter}, Alive: true, AppliedRevision: 64},
				{Member: masters.Member{Name: "m3", Role: masters.Spare}},
			}}
		},
		DatabaseBytes: func() int64 { return 4096 },
		Full:          func() bool { return true },
		Care: func() masters.CareCounts {
			return masters.CareCounts{Defragmented: 2, DefragmentationsFailed: 1, Compared: 9, Differed: 4, Shortened: 3}
		},
		Sealing: func() sealed.Progress { return progress }, Audited: func() (int64, int64) { return 20, 2 },
		Snapshots: func() (int64, int64) { return 7, 1 }, LastSnapshot: func() time.Time { return time.Unix(1_800_000_000, 0) },
		Loads: func() []flowcontrol.Load {
			return []flowcontrol.Load{{Level: "system", Seats: 74, Used: 5, Waiting: 2, Dispatched: map[string]int64{"system-nodes": 9}, Rejected: map[string]int64{"time-out": 1}}}
		},
	})
	group := lifecycle.NewGroup(context.Background())
	t.Cleanup(func() {
		group.Cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	group.Go(s.Run)
	<-s.Ready()
	if text := read(t, m); strings.Contains(text, "kijabi_sealed_objects") {
		t.Error("a follower tells of sealed objects")
	} else {
		has(t, text, "kijabi_leading 0", "kijabi_epoch 0")
	}
	group.Go(s.Lead)
	for deadline := time.Now().Add(10 * time.Second); !s.Term().Leading; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("does not lead")
		}
	}
	write := func(names ...string) error {
		g := store.Group{User: "test"}
		for _, name := range names {
			g.Writes = append(g.Writes, store.Write{
				Key:    store.Key{Resource: "pods", Namespace: "default", Name: name},
				Decide: func(*store.Record) (store.Change, error) { return store.Change{Value: []byte("x")}, nil },
			})
		}
		_, err := s.Commit(t.Context(), g)
		return err
	}
	if err := write("a", "b", "c"); err != nil {
		t.Fatal(err)
	}
	refuse = true
	if err := write("d"); !errors.Is(err, store.ErrRefused) {
		t.Fatalf("refused write: %v", err)
	}
	has(t, read(t, m),
		"kijabi_leading 1", "kijabi_epoch 2", "kijabi_memory_current 1", "kijabi_memory_revision 3", "kijabi_leader_changes_total 4",
		`kijabi_virtual_address_held{address="10.0.0.10"} 1`, `kijabi_virtual_address_conflicts_total{address="10.0.0.10"} 2`,
		"kijabi_failures_tolerated 0", `kijabi_master_alive{master="m2",role="voter"} 1`, `kijabi_master_alive{master="m3",role="spare"} 0`,
		`kijabi_master_lag_revisions{master="m2"} 6`, `kijabi_master_disk_probe_seconds{master="m1"} 0.003`,
		`kijabi_master_certificate_not_after_seconds{master="m1"} 1.7e+09`,
		`apiserver_storage_objects{resource="pods"} 3`, `apiserver_storage_objects{resource="deployments.apps"} 0`,
		`apiserver_resource_objects{group="apps",resource="deployments"} 0`, `apiserver_storage_size_bytes{storage_cluster_id="etcd-0"} 4096`,
		`etcd_request_duration_seconds_count{operation="txn"} 3`, // the claim, too
		`etcd_request_errors_total{operation="txn"} 1`,
		`kijabi_batch_writes_bucket{le="2"} 2`, `kijabi_batch_writes_bucket{le="4"} 3`,
		`kijabi_sealed_objects{state="sealed"} 6`, `kijabi_sealed_objects{state="stale"} 3`, `kijabi_sealed_objects{state="unreadable"} 1`,
		`kijabi_audit_events_total{outcome="dropped"} 2`, `kijabi_audit_events_total{outcome="recorded"} 20`,
		`apiserver_flowcontrol_nominal_limit_seats{priority_level="system"} 74`, `apiserver_flowcontrol_current_executing_seats{priority_level="system"} 5`,
		`apiserver_flowcontrol_current_inqueue_seats{priority_level="system"} 2`,
		`apiserver_flowcontrol_dispatched_requests_total{flow_schema="system-nodes",priority_level="system"} 9`,
		`apiserver_flowcontrol_rejected_requests_total{priority_level="system",reason="time-out"} 1`,
		"kijabi_quarantined_objects 0",
		"kijabi_store_full 1", "kijabi_warnings 1", "kijabi_history_shortened_total 3",
		`kijabi_database_in_use_bytes{master="m1"} 50`, `kijabi_database_limit_bytes{master="m1"} 100`, `kijabi_disk_free_bytes{master="m1"} -7`,
		`kijabi_defragmentations_total{outcome="done"} 2`, `kijabi_defragmentations_total{outcome="failed"} 1`,
		`kijabi_data_comparisons_total{outcome="alike"} 5`, `kijabi_data_comparisons_total{outcome="different"} 4`,
		`kijabi_snapshots_total{outcome="made"} 7`,
		`kijabi_snapshots_total{outcome="failed"} 1`,
		"kijabi_last_snapshot_timestamp_seconds 1.8e+09")
}

func BenchmarkRequest(b *testing.B) {
	m := New()
	r := Request{Door: DoorREST, Verb: "LIST", Version: "v1", Resource: "pods", Scope: "namespace"}
	b.ReportAllocs()
	for b.Loop() {
		m.Began(r)
		m.Ended(r)
		m.Answered(r, 200, time.Millisecond)
	}
}

func TestAdmission(t *testing.T) {
	m := New()
	m.Webhook("a.example.com", "admit", "CREATE", 0, 7*time.Millisecond)
	m.Webhook("a.example.com", "admit", "CREATE", 403, time.Millisecond)
	m.WebhookRejected("a.example.com", "admit", "CREATE", "no_error", 403)
	m.WebhookFailedOpen("b.example.com", "validating")
	m.Policy("p", "b", "deny", time.Millisecond)
	has(t, read(t, m),
		`apiserver_admission_webhook_admission_duration_seconds_count{name="a.example.com",operation="CREATE",rejected="false",type="admit"} 1`,
		`apiserver_admission_webhook_admission_duration_seconds_count{name="a.example.com",operation="CREATE",rejected="true",type="admit"} 1`,
		`apiserver_admission_webhook_rejection_count{error_type="no_error",name="a.example.com",operation="CREATE",rejection_code="403",type="admit"} 1`,
		`apiserver_admission_webhook_fail_open_count{name="b.example.com",type="validating"} 1`,
		`apiserver_validating_admission_policy_check_duration_seconds_count{enforcement_action="deny",policy="p",policy_binding="b"} 1`)
}
