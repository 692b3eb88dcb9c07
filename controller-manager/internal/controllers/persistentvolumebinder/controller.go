// Package persistentvolumebinder binds claims to volumes: it chooses volumes, writes both
// sides of each binding, asks provisioners for what is missing, gives classless claims the
// default class, and follows what becomes of volumes whose claims are gone.
//
// Its keys are claims, and volumes, which have no namespace. Claims whose class waits for a
// first consumer it leaves to the scheduler, until that has reserved a volume or has chosen
// a node.
package persistentvolumebinder

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/controller-manager/internal/podstate"
	"kijabi.dev/controller-manager/internal/storage"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	// Claims have indexes IndexUnboundClaims and IndexClaimVolume, Volumes have
	// IndexFreeVolumes and IndexVolumeClaim, Pods have IndexPodClaims.
	Claims  *informer.Informer[*corev1.PersistentVolumeClaim]
	Volumes *informer.Informer[*corev1.PersistentVolume]
	Classes *informer.Informer[*storagev1.StorageClass]
	Pods    *informer.Informer[*corev1.Pod]
	// API reads what a cache may not show yet, before something is declared lost.
	API *client.Client
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller binds claims to volumes.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "persistentvolumebinder".
func (*Controller) Name() string { return "persistentvolumebinder" }

// Inputs are claims and volumes with each other, and classes and pods with the claims that
// wait for them.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Mapped(c.cfg.Claims, func(claim *corev1.PersistentVolumeClaim) []object.Key {
			keys := []object.Key{object.KeyOf(claim)}
			if claim.Spec.VolumeName != "" {
				keys = append(keys, object.Key{Name: claim.Spec.VolumeName})
			}
			for _, v := range c.cfg.Volumes.ByIndex(storage.IndexVolumeClaim, keys[0].String()) {
				keys = append(keys, object.KeyOf(v))
			}
			return keys
		}),
		controller.Mapped(c.cfg.Volumes, func(v *corev1.PersistentVolume) []object.Key {
			keys := append([]object.Key{object.KeyOf(v)}, keysOf(c.cfg.Claims.ByIndex(storage.IndexClaimVolume, v.Name))...)
			if claim, ok := volume.ClaimOf(v); ok {
				return append(keys, claim)
			}
			if v.Status.Phase != corev1.VolumeAvailable {
				return keys
			}
			return append(keys, keysOf(c.cfg.Claims.ByIndex(storage.IndexUnboundClaims, volume.ClassOf(v)))...)
		}),
		controller.Mapped(c.cfg.Classes, func(class *storagev1.StorageClass) []object.Key {
			keys := keysOf(c.cfg.Claims.ByIndex(storage.IndexUnboundClaims, class.Name))
			if class.Annotations[volume.AnnDefaultClass] == "true" {
				keys = append(keys, keysOf(c.cfg.Claims.ByIndex(storage.IndexUnboundClaims, ""))...)
			}
			return keys
		}),
		// Whether pods wait for a claim is only told, never acted on.
		controller.Mapped(c.cfg.Pods, func(pod *corev1.Pod) []object.Key {
			if pod.Spec.NodeName != "" {
				return nil
			}
			return slices.DeleteFunc(storage.ClaimsOfPod(pod), func(key object.Key) bool {
				claim, err := c.cfg.Claims.Get(key)
				return err != nil || volume.FullyBound(claim)
			})
		}),
	}
}

func keysOf[T object.Object](objects []T) []object.Key {
	keys := make([]object.Key, 0, len(objects))
	for _, obj := range objects {
		keys = append(keys, object.KeyOf(obj))
	}
	return keys
}

// Outputs are both sides of bindings.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Fields[*corev1.PersistentVolume]("spec.claimRef"),
		controller.StatusPart[*corev1.PersistentVolume]("phase"),
		controller.Fields[*corev1.PersistentVolumeClaim]("spec.volumeName, spec.storageClassName and annotations of binding"),
		controller.StatusPart[*corev1.PersistentVolumeClaim]("phase, and the rest when it becomes bound"),
	}
}

// mostSteps is more than any binding takes.
const mostSteps = 10

// Reconcile takes a claim or a volume as far as it gets.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	next := c.volumeSteps(ctx, key)
	if key.Namespace != "" {
		next = c.claimSteps(ctx, key)
	}
	var written object.Object
	for range mostSteps {
		s, err := next(written)
		if err != nil {
			return 0, err
		}
		if s.write != nil {
			if written, err = c.write(ctx, w, s); err != nil {
				return 0, err
			}
			log.Debug("wrote", zap.String("what", fmt.Sprintf("%T", written)), zap.String("name", written.GetName()), zap.Bool("status", s.status))
		}
		for _, e := range s.events {
			c.cfg.Event(e.about, e.severity, e.reason, e.message)
		}
		if s.write == nil || len(s.events) > 0 {
			return 0, nil
		}
	}
	return 0, fmt.Errorf("%s is not settled after %d writes", key, mostSteps)
}

// write stores a step at the version it was decided on: whoever wrote meanwhile goes first.
func (c *Controller) write(ctx context.Context, w client.Writer, s step) (object.Object, error) {
	write := w.Update
	if s.status {
		write = w.UpdateStatus
	}
	stored, err := write(ctx, s.write)
	if err != nil {
		return nil, fmt.Errorf("write %T %s: %w", s.write, object.KeyOf(s.write), err)
	}
	return stored, nil
}

// claimSteps returns what decides a claim's next step, given what the last one wrote.
func (c *Controller) claimSteps(ctx context.Context, key object.Key) func(object.Object) (step, error) {
	var claim *corev1.PersistentVolumeClaim
	written := map[string]*corev1.PersistentVolume{}
	return func(last object.Object) (step, error) {
		switch last := last.(type) {
		case *corev1.PersistentVolumeClaim:
			claim = last
		case *corev1.PersistentVolume:
			written[last.Name] = last
		}
		if claim == nil {
			var err error
			if claim, err = c.cfg.Claims.Get(key); apierrors.IsNotFound(err) {
				return step{}, nil // its volume is due, too
			} else if err != nil {
				return step{}, err
			}
		}
		s, err := c.surroundings(ctx, claim, written)
		if err != nil {
			return step{}, err
		}
		return decideClaim(claim, s), nil
	}
}

func (c *Controller) surroundings(ctx context.Context, claim *corev1.PersistentVolumeClaim, written map[string]*corev1.PersistentVolume) (*surroundings, error) {
	s := &surroundings{fallback: volume.DefaultClass(c.cfg.Classes.List())}
	name := volume.ClassOfClaim(claim)
	if class, err := c.cfg.Classes.Get(object.Key{Name: name}); err == nil {
		s.class = class
	}
	known := c.cfg.Volumes.ByIndex(storage.IndexVolumeClaim, object.KeyOf(claim).String())
	if wanted := claim.Spec.VolumeName; wanted == "" {
		known = append(known, c.cfg.Volumes.ByIndex(storage.IndexFreeVolumes, name)...)
	} else if v, err := c.cfg.Volumes.Get(object.Key{Name: wanted}); err == nil {
		known = append(known, v)
	} else if _, completed := claim.Annotations[volume.AnnBindCompleted]; completed && written[wanted] == nil && claim.Status.Phase != corev1.ClaimLost {
		// The cache of volumes may be behind that of claims: nothing is lost before the store says so.
		v, err := client.Get[*corev1.PersistentVolume](ctx, c.cfg.API, object.Key{Name: wanted})
		switch {
		case apierrors.IsNotFound(err):
			s.gone = true
		case err != nil:
			return nil, fmt.Errorf("read volume %s: %w", wanted, err)
		default:
			known = append(known, v)
		}
	}
	for _, v := range known {
		if written[v.Name] == nil {
			s.volumes = append(s.volumes, v)
		}
	}
	for _, v := range written {
		s.volumes = append(s.volumes, v)
	}
	for _, pod := range c.cfg.Pods.ByIndex(storage.IndexPodClaims, object.KeyOf(claim).String()) {
		if pod.Spec.NodeName == "" && !podstate.Finished(pod) {
			s.waiting = append(s.waiting, pod.Name)
		}
	}
	return s, nil
}

// volumeSteps returns what decides a volume's next step, given what the last one wrote.
func (c *Controller) volumeSteps(ctx context.Context, key object.Key) func(object.Object) (step, error) {
	var v *corev1.PersistentVolume
	return func(last object.Object) (step, error) {
		if last != nil {
			v = last.(*corev1.PersistentVolume)
		}
		if v == nil {
			var err error
			if v, err = c.cfg.Volumes.Get(key); apierrors.IsNotFound(err) {
				return step{}, nil // its claim is due, too
			} else if err != nil {
				return step{}, err
			}
		}
		claim, err := c.claimOf(ctx, v)
		if err != nil {
			return step{}, err
		}
		return decideVolume(v, claim), nil
	}
}

// claimOf finds the claim that a volume refers to, nil if there is certainly none. What a
// volume keeps is released only once the store itself says that the claim is gone.
func (c *Controller) claimOf(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	key, ok := volume.ClaimOf(v)
	if !ok {
		return nil, nil
	}
	if claim, err := c.cfg.Claims.Get(key); err == nil && volume.ReservedFor(v, claim) {
		return claim, nil
	}
	if v.Spec.ClaimRef.UID == "" || v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed {
		return nil, nil
	}
	claim, err := client.Get[*corev1.PersistentVolumeClaim](ctx, c.cfg.API, key)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read claim %s: %w", key, err)
	case !volume.ReservedFor(v, claim):
		return nil, nil // a namesake
	}
	return claim, nil
}
