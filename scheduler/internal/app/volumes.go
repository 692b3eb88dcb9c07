package app

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
	"kijabi.dev/platform/logging"
	"kijabi.dev/scheduler/internal/placement"
)

// volumePatience is how long a pod keeps its room on a node while its claims are being bound.
const volumePatience = 10 * time.Minute

// lookAgain bounds the pause after which pods that wait for claims are looked at.
const lookAgain = 30 * time.Second

// waiting is a pod whose node is chosen and whose claims are being bound.
type waiting struct {
	placed
	since   time.Time
	written written
}

// written are the versions at which claims, by uid, have the chosen node selected, and at which
// volumes, by name, are reserved. What is known at such a version or a later one and does
// not show it has lost it.
type written struct {
	selected map[types.UID]uint64
	reserved map[string]uint64
}

// reached says whether an object is known at a version or a later one.
func reached(obj object.Object, version uint64) bool {
	have, err := object.ParseVersion(obj.GetResourceVersion())
	return err == nil && have >= version
}

// settled says whether a claim is known as it was after the node was selected for it.
func (w *waiting) settled(claim *corev1.PersistentVolumeClaim) bool {
	version, ok := w.written.selected[claim.UID]
	return ok && reached(claim, version)
}

// lost says which of the pod's reservations somebody undid, "" if none. The caller holds mu.
func (s *scheduler) lost(w *waiting) string {
	for _, r := range w.volumes.Reserve {
		v := s.cluster.Volume(r.Volume.Name) // was known when it was reserved
		if v == nil || reached(v, w.written.reserved[v.Name]) && (v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != r.Claim.UID) {
			return fmt.Sprintf("persistentvolume %q, which was reserved for persistentvolumeclaim %q, is gone", r.Volume.Name, r.Claim.Name)
		}
	}
	return ""
}

// claimChanged follows the cache of claims.
func (s *scheduler) claimChanged(before, after *corev1.PersistentVolumeClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := before
	if after != nil {
		changed = after
		s.cluster.SetClaim(after)
	} else {
		s.cluster.RemoveClaim(object.KeyOf(before))
	}
	key := object.KeyOf(changed)
	s.storageChanged(func(pod *corev1.Pod) bool {
		for _, use := range volume.Uses(pod) {
			if use.Claim == key {
				return true
			}
		}
		return false
	})
}

// volumeChanged follows the cache of volumes.
func (s *scheduler) volumeChanged(before, after *corev1.PersistentVolume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after == nil {
		s.cluster.RemoveVolume(before.Name)
	} else {
		s.cluster.SetVolume(after)
	}
	s.storageChanged(usesClaims)
}

// classChanged follows the cache of storage classes.
func (s *scheduler) classChanged(before, after *storagev1.StorageClass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after == nil {
		s.cluster.RemoveClass(before.Name)
	} else {
		s.cluster.SetClass(after)
	}
	s.storageChanged(usesClaims)
}

func usesClaims(pod *corev1.Pod) bool { return len(volume.Uses(pod)) > 0 }

// storageChanged wakes the pods that a change may help. The caller holds mu.
func (s *scheduler) storageChanged(helps func(*corev1.Pod) bool) {
	woken := s.queue.WakeIf(helps)
	s.recheck = s.recheck || len(s.waiting) > 0
	if woken || s.recheck {
		s.signal()
	}
}

// dropWaiting gives back what a pod keeps that waits for its claims. The caller holds mu.
func (s *scheduler) dropWaiting(uid types.UID) {
	if _, ok := s.waiting[uid]; ok {
		delete(s.waiting, uid)
		s.cluster.Forget(uid)
	}
}

// checkWaiting returns the pods whose claims are all bound by now. Those whose claims will not
// be are tried anew. The caller holds mu.
func (s *scheduler) checkWaiting(now time.Time) (ready []placed) {
	s.recheck = false
	for uid, w := range s.waiting {
		bound, why := s.cluster.VolumesBound(w.pod, w.node, w.settled)
		if why == "" && !bound {
			why = s.lost(w)
		}
		if why == "" && !bound && now.Sub(w.since) >= volumePatience {
			why = fmt.Sprintf("binding volumes: not done within %s", volumePatience)
		}
		switch {
		case why != "":
			s.log.Info("claims are not bound", logging.Pod(w.pod.Namespace, w.pod.Name), logging.Node(w.node), zap.String("reason", why))
			s.events.Record(w.pod, corev1.EventTypeWarning, "FailedScheduling", why)
			s.dropWaiting(uid)
			s.queue.Retry(w.item, now)
		case bound:
			delete(s.waiting, uid) // its room stays assumed
			if d, ok := s.decisions[uid]; ok {
				d.Volumes = nil
				s.decisions[uid] = d
			}
			ready = append(ready, w.placed)
		}
	}
	return ready
}

// bindVolumes reserves volumes for the claims of pods, and selects nodes for those claims for
// which volumes are to be made; the pods then wait.
func (s *scheduler) bindVolumes(ctx context.Context, chosen []placed) {
	for _, p := range chosen {
		versions, err := s.writePlan(ctx, p.node, p.volumes)
		s.mu.Lock()
		switch {
		case !s.queue.Has(p.pod.UID): // gone meanwhile
			s.cluster.Forget(p.pod.UID)
		case err != nil:
			if ctx.Err() == nil {
				s.log.Debug("claims were not prepared", logging.Pod(p.pod.Namespace, p.pod.Name), logging.Node(p.node), zap.Error(err))
			}
			s.cluster.Forget(p.pod.UID)
			s.queue.Retry(p.item, s.clock.Now())
		default:
			s.waiting[p.pod.UID] = &waiting{placed: p, since: s.clock.Now(), written: versions}
			s.recheck = true // what was bound before this moment tells nobody
		}
		s.mu.Unlock()
	}
}

// writePlan writes what a plan says, all of it or nothing, at the versions that the plan was
// made of: nobody else may have taken a volume meanwhile.
func (s *scheduler) writePlan(ctx context.Context, node string, plan *placement.VolumePlan) (written, error) {
	ops := make([]client.Op, 0, len(plan.Reserve)+len(plan.Select))
	for _, r := range plan.Reserve {
		reserved, _ := volume.Reserve(r.Volume, r.Claim)
		ops = append(ops, client.UpdateOp(reserved, ""))
	}
	for _, claim := range plan.Select {
		updated := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, volume.AnnSelectedNode, node)
		ops = append(ops, client.UpdateOp(updated, ""))
	}
	stored := make([]object.Object, 0, len(plan.Selected)+len(ops))
	for _, claim := range plan.Selected {
		stored = append(stored, claim)
	}
	if len(ops) > 0 {
		results, err := s.api.Transact(ctx, ops, false)
		if err != nil {
			return written{}, err
		}
		for _, result := range results {
			stored = append(stored, result.Object)
		}
	}
	out := written{selected: map[types.UID]uint64{}, reserved: map[string]uint64{}}
	for _, obj := range stored {
		version, err := object.ParseVersion(obj.GetResourceVersion())
		if err != nil {
			return written{}, fmt.Errorf("version of %T %s: %w", obj, obj.GetName(), err)
		}
		if v, ok := obj.(*corev1.PersistentVolume); ok {
			out.reserved[v.Name] = version
		} else {
			out.selected[obj.GetUID()] = version
		}
	}
	return out, nil
}

// sameForPlacement says whether a change of a pod that waits cannot matter to where it goes.
func sameForPlacement(before, after *corev1.Pod) bool {
	return equality.Semantic.DeepEqual(before.Spec, after.Spec) && equality.Semantic.DeepEqual(before.Labels, after.Labels)
}
