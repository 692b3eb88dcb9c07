package job

import (
	"context"
	"fmt"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/rpc"
)

// spacing is the least time between two writes of a job's status that only change numbers.
const spacing = time.Second

// freshWait bounds the wait for the caches at the first look under a new leadership.
const freshWait = 5 * time.Second

// memory is what this process remembers of jobs. Nothing goes wrong without it: it paces
// writes, knows deleted pods' failures, and which jobs were looked at under which leadership.
type memory struct {
	mu   sync.Mutex
	jobs map[object.Key]record
}

type record struct {
	uid       types.UID
	wrote     time.Time // when the status was last written
	past      past
	confirmed bool // the cache was no older than the leadership of the epoch
	epoch     uint64
}

// of returns the record of a job; empty if it is of a namesake. The caller holds mu.
func (m *memory) of(key object.Key, uid types.UID) record {
	if r := m.jobs[key]; r.uid == uid {
		return r
	}
	return record{uid: uid}
}

// keep stores a record. The caller holds mu.
func (m *memory) keep(key object.Key, r record) {
	if m.jobs == nil {
		m.jobs = map[object.Key]record{}
	}
	m.jobs[key] = r
}

func (m *memory) forget(key object.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.jobs, key)
}

func (m *memory) past(key object.Key, uid types.UID) past {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of(key, uid).past
}

// pace returns how long the next write that only changes numbers should wait.
func (m *memory) pace(key object.Key, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	wrote := m.jobs[key].wrote
	return min(spacing, wrote.Add(spacing).Sub(now)) // a clock that was set back waits no longer
}

func (m *memory) wrote(key object.Key, uid types.UID, now time.Time, p past) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.of(key, uid)
	r.wrote, r.past = now, p
	m.keep(key, r)
}

func (m *memory) confirmed(key object.Key, uid types.UID, epoch uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.of(key, uid)
	return r.confirmed && r.epoch == epoch
}

func (m *memory) confirm(key object.Key, uid types.UID, epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.of(key, uid)
	r.confirmed, r.epoch = true, epoch
	m.keep(key, r)
}

// current returns the job no older than the leadership under which ctx runs, nil if it is gone
// or will be seen anew. An earlier leader's last count must be known: with the job from before
// it and the pods from after it, a pod would be missing from both and be replaced.
func (c *Controller) current(ctx context.Context, key object.Key, job *batchv1.Job) (*batchv1.Job, error) {
	epoch := rpc.EpochFrom(ctx)
	if finished(job) || c.memory.confirmed(key, job.UID, epoch) {
		return job, nil
	}
	live, err := c.cfg.Live(ctx, key)
	if apierrors.IsNotFound(err) || err == nil && live.UID != job.UID {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read job %s: %w", key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	if err := c.cfg.Jobs.WaitVersion(ctx, live.ResourceVersion); err != nil {
		return nil, err
	}
	if live.Status.StartTime != nil { // one without may have pods, too, but none was counted
		if err := c.cfg.Pods.WaitVersion(ctx, live.ResourceVersion); err != nil {
			return nil, err
		}
	}
	job, err = c.cfg.Jobs.Get(key)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.memory.confirm(key, job.UID, epoch)
	return job, nil
}
