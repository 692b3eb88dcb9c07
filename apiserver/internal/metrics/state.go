package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kijabi.dev/apiserver/internal/flowcontrol"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/storage/sealed"
	"kijabi.dev/apiserver/internal/store"
	"kijabi.dev/apiserver/internal/vip"
)

// State is read when the metrics are asked for. All fields are required.
type State struct {
	Store *store.Store
	// Resources whose objects are counted at the time.
	Resources func() []schema.GroupResource
	// Masters as this one sees them.
	Masters func() masters.Status
	// VIP lists the virtual addresses.
	VIP func() []vip.Status
	// DatabaseBytes is the size of the etcd member's database.
	DatabaseBytes func() int64
	// Sealing is how far rewriting of sealed objects has come.
	Sealing func() sealed.Progress
	// Audited are the events written to the audit log and those dropped.
	Audited func() (recorded, dropped int64)
	// Snapshots that this master has made, and attempts that failed.
	Snapshots func() (made, failed int64)
	// LastSnapshot of the cluster was made at this time; zero if none was.
	LastSnapshot func() time.Time
	// Full says that this master leads and refuses growth for lack of space, Care what it has done for
	// the health of the data.
	Full func() bool
	Care func() masters.CareCounts
	// Loads of the priority levels.
	Loads func() []flowcontrol.Load
}

// Follow adds the metrics of a state. Call it once, before Handler is used.
func (m *Metrics) Follow(s State) { m.registry.MustRegister(newStateCollector(s)) }

type stateCollector struct {
	State

	objects, resourceObjects, size                   *prometheus.Desc
	leading, epoch, current, revision, leaderChanges *prometheus.Desc
	quarantined, sealed, audited                     *prometheus.Desc
	masterAlive, masterLag, masterDisk, masterEnd    *prometheus.Desc
	tolerated                                        *prometheus.Desc
	vipHeld, vipConflicts                            *prometheus.Desc
	snapshots, lastSnapshot                          *prometheus.Desc
	inUse, limit, diskFree, full, warnings           *prometheus.Desc
	defragmented, compared, shortened                *prometheus.Desc
	seats, executing, queued, dispatched, rejected   *prometheus.Desc
}

var _ prometheus.Collector = (*stateCollector)(nil)

func newStateCollector(s State) *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &stateCollector{
		State:           s,
		objects:         desc("apiserver_storage_objects", "Objects of a resource.", "resource"),
		resourceObjects: desc("apiserver_resource_objects", "Objects of a resource.", "group", "resource"),
		size:            desc("apiserver_storage_size_bytes", "Size of the etcd member's database.", "storage_cluster_id"),
		leading:         desc("kijabi_leading", "1 while this master leads and is open for writes."),
		epoch:           desc("kijabi_epoch", "Newest epoch this master knows of."),
		current:         desc("kijabi_memory_current", "1 while this master can prove that its memory is current."),
		revision:        desc("kijabi_memory_revision", "Newest etcd revision that memory holds."),
		leaderChanges:   desc("kijabi_leader_changes_total", "Changes of leadership that this master has seen since it started."),
		masterAlive:     desc("kijabi_master_alive", "1 while a master has been reached within the last seconds.", "master", "role"),
		masterLag:       desc("kijabi_master_lag_revisions", "Revisions that a master's memory is behind the leader's.", "master"),
		masterDisk:      desc("kijabi_master_disk_probe_seconds", "Time of a master's last synced write beside its data.", "master"),
		masterEnd:       desc("kijabi_master_certificate_not_after_seconds", "Unix time at which the first of a master's certificates ends.", "master"),
		tolerated:       desc("kijabi_failures_tolerated", "Voting masters more that may fail; negative when the quorum is lost."),
		vipHeld:         desc("kijabi_virtual_address_held", "1 while this master holds a virtual address.", "address"),
		vipConflicts:    desc("kijabi_virtual_address_conflicts_total", "How often another machine claimed a virtual address that this master held.", "address"),
		quarantined:     desc("kijabi_quarantined_objects", "Objects that could not be read and were set aside."),
		sealed:          desc("kijabi_sealed_objects", "Objects encrypted at rest, by state; known to the leading master only.", "state"),
		seats:           desc("apiserver_flowcontrol_nominal_limit_seats", "Requests that a priority level may serve at once without borrowing.", "priority_level"),
		executing:       desc("apiserver_flowcontrol_current_executing_seats", "Requests of a priority level that hold a seat.", "priority_level"),
		queued:          desc("apiserver_flowcontrol_current_inqueue_seats", "Requests of a priority level that wait for a seat.", "priority_level"),
		dispatched:      desc("apiserver_flowcontrol_dispatched_requests_total", "Requests that were given a seat or needed none.", "priority_level", "flow_schema"),
		rejected:        desc("apiserver_flowcontrol_rejected_requests_total", "Requests that were refused a seat.", "priority_level", "reason"),
		audited:         desc("kijabi_audit_events_total", "Events of the audit log, by outcome.", "outcome"),
		snapshots:       desc("kijabi_snapshots_total", "Snapshots that this master was to make, by outcome.", "outcome"),
		inUse:           desc("kijabi_database_in_use_bytes", "Bytes of a master's database that are no free pages.", "master"),
		limit:           desc("kijabi_database_limit_bytes", "The most that a master's database may have in use.", "master"),
		diskFree:        desc("kijabi_disk_free_bytes", "Space on the disk of a master's database above its reserve; with 0 or less it is full.", "master"),
		full:            desc("kijabi_store_full", "1 while this master leads and refuses what needs space."),
		warnings:        desc("kijabi_warnings", "Things that need attention, as kijabi status names them."),
		defragmented:    desc("kijabi_defragmentations_total", "Defragmentations of this master's database, by outcome.", "outcome"),
		compared:        desc("kijabi_data_comparisons_total", "Comparisons of all masters' data that this one has made, by outcome.", "outcome"),
		shortened:       desc("kijabi_history_shortened_total", "Times that this master has shortened the history for lack of space."),
		lastSnapshot:    desc("kijabi_last_snapshot_timestamp_seconds", "When the cluster's newest scheduled snapshot was made."),
	}
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.objects, c.resourceObjects, c.size, c.leading, c.epoch, c.current, c.revision, c.leaderChanges, c.quarantined, c.sealed, c.audited,
		c.masterAlive, c.masterLag, c.masterDisk, c.masterEnd, c.tolerated, c.vipHeld, c.vipConflicts,
		c.snapshots, c.lastSnapshot,
		c.inUse, c.limit, c.diskFree, c.full, c.warnings, c.defragmented, c.compared, c.shortened,
		c.seats, c.executing, c.queued, c.dispatched, c.rejected,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	count := func(d *prometheus.Desc, value int64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	for _, r := range c.Resources() {
		n := float64(c.Store.Count(r.String()))
		gauge(c.objects, n, r.String())
		gauge(c.resourceObjects, n, r.Group, r.Resource)
	}
	term := c.Store.Term()
	gauge(c.size, float64(c.DatabaseBytes()), "etcd-0")
	gauge(c.leading, number(term.Leading))
	gauge(c.epoch, float64(term.Epoch))
	gauge(c.current, number(c.Store.Current()))
	gauge(c.revision, float64(c.Store.Revision()))
	group := c.Masters()
	count(c.leaderChanges, group.LeaderChanges)
	gauge(c.tolerated, float64(group.Quorum.Tolerated()))
	for _, m := range group.Members {
		gauge(c.masterAlive, number(m.Alive), m.Name, string(m.Role))
		if !m.Alive {
			continue
		}
		gauge(c.masterLag, float64(group.Lag(m)), m.Name)
		if m.DiskLatency > 0 {
			gauge(c.masterDisk, m.DiskLatency.Seconds(), m.Name)
		}
		if m.DatabaseLimit > 0 {
			gauge(c.inUse, float64(m.DatabaseInUse), m.Name)
			gauge(c.limit, float64(m.DatabaseLimit), m.Name)
		}
		if m.DiskFree != nil {
			gauge(c.diskFree, float64(*m.DiskFree), m.Name)
		}
		if !m.CertificateEnd.IsZero() {
			gauge(c.masterEnd, float64(m.CertificateEnd.Unix()), m.Name)
		}
	}
	for _, s := range c.VIP() {
		gauge(c.vipHeld, number(s.Held), s.Address.String())
		count(c.vipConflicts, s.Conflicts, s.Address.String())
	}
	care := c.Care()
	gauge(c.full, number(c.Full()))
	gauge(c.warnings, float64(len(group.Warnings)))
	count(c.defragmented, care.Defragmented, "done")
	count(c.defragmented, care.DefragmentationsFailed, "failed")
	count(c.compared, care.Compared-care.Differed, "alike")
	count(c.compared, care.Differed, "different")
	count(c.shortened, care.Shortened)
	aside := 0
	for _, reason := range c.Store.Quarantined() {
		if reason != nil {
			aside++
		}
	}
	gauge(c.quarantined, float64(aside))
	if term.Leading {
		p := c.Sealing()
		gauge(c.sealed, float64(p.Total-p.Stale-p.Unreadable), "sealed")
		gauge(c.sealed, float64(p.Stale), "stale")
		gauge(c.sealed, float64(p.Unreadable), "unreadable")
	}
	for _, load := range c.Loads() {
		gauge(c.seats, float64(load.Seats), load.Level)
		gauge(c.executing, float64(load.Used), load.Level)
		gauge(c.queued, float64(load.Waiting), load.Level)
		for schema, n := range load.Dispatched {
			count(c.dispatched, n, load.Level, schema)
		}
		for reason, n := range load.Rejected {
			count(c.rejected, n, load.Level, reason)
		}
	}
	recorded, dropped := c.Audited()
	count(c.audited, recorded, "recorded")
	count(c.audited, dropped, "dropped")
	made, failed := c.Snapshots()
	count(c.snapshots, made, "made")
	count(c.snapshots, failed, "failed")
	if last := c.LastSnapshot(); !last.IsZero() {
		gauge(c.lastSnapshot, float64(last.Unix()))
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
