// Package localpath provisions volumes that are directories of nodes, for claims whose class
// has provisioner kijabi.dev/local-path. The node is the one that the scheduler selected for
// the claim's first pod; its kubelet makes the directory at the first mount and removes it
// once the volume is gone, so that here volumes are only made and deleted as objects. Sizes
// are recorded and not enforced.
//
// Keys are claims, and volumes, which have no namespace.
package localpath

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/controller-manager/internal/storage"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	// Claims have index IndexUnboundClaims.
	Claims  *informer.Informer[*corev1.PersistentVolumeClaim]
	Volumes *informer.Informer[*corev1.PersistentVolume]
	Classes *informer.Informer[*storagev1.StorageClass]
	Nodes   *informer.Informer[*corev1.Node]
	// API reads nodes that the cache may not show yet.
	API *client.Client
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller provisions directories.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "localpath".
func (*Controller) Name() string { return "localpath" }

// Inputs are claims, volumes made here, and classes.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Mapped(c.cfg.Claims, func(claim *corev1.PersistentVolumeClaim) []object.Key {
			if volume.FullyBound(claim) {
				return nil
			}
			return []object.Key{object.KeyOf(claim)}
		}),
		controller.Mapped(c.cfg.Volumes, func(v *corev1.PersistentVolume) []object.Key {
			if !volume.MadeByLocalPath(v) {
				return nil
			}
			return []object.Key{object.KeyOf(v)}
		}),
		controller.Mapped(c.cfg.Classes, func(class *storagev1.StorageClass) []object.Key {
			var keys []object.Key
			for _, claim := range c.cfg.Claims.ByIndex(storage.IndexUnboundClaims, class.Name) {
				keys = append(keys, object.KeyOf(claim))
			}
			return keys
		}),
		controller.Reads(c.cfg.Nodes),
	}
}

// Outputs are volumes of the provisioner's own, and what makes the scheduler select anew.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Fields[*corev1.PersistentVolume]("provisioned by " + volume.LocalPath),
		controller.Deletes[*corev1.PersistentVolume]("it was provisioned by " + volume.LocalPath + " and is released"),
		controller.Fields[*corev1.PersistentVolumeClaim]("annotation selected-node, of a node that is gone"),
	}
}

// Reconcile makes the volume of a claim, or deletes one that is released.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, _ *zap.Logger) (time.Duration, error) {
	if key.Namespace == "" {
		return 0, c.release(ctx, key, w)
	}
	claim, err := c.cfg.Claims.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read claim %s: %w", key, err)
	}
	var class *storagev1.StorageClass
	if found, err := c.cfg.Classes.Get(object.Key{Name: volume.ClassOfClaim(claim)}); err == nil {
		class = found
	}
	_, err = c.cfg.Volumes.Get(object.Key{Name: volume.LocalPathName(claim.UID)})
	made := err == nil
	node, err := c.node(ctx, claim.Annotations[volume.AnnSelectedNode])
	if err != nil {
		return 0, err
	}
	return 0, c.apply(ctx, w, claim, decide(claim, class, node, made))
}

// node returns a node, nil if there is certainly none of that name.
func (c *Controller) node(ctx context.Context, name string) (*corev1.Node, error) {
	if name == "" {
		return nil, nil
	}
	key := object.Key{Name: name}
	if node, err := c.cfg.Nodes.Get(key); err == nil {
		return node, nil
	}
	node, err := client.Get[*corev1.Node](ctx, c.cfg.API, key)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", name, err)
	}
	return node, nil
}

func (c *Controller) apply(ctx context.Context, w client.Writer, claim *corev1.PersistentVolumeClaim, p plan) error {
	if p.failure != "" {
		c.cfg.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", p.failure)
	}
	if p.update != nil {
		if _, err := w.Update(ctx, p.update); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("let another node be selected for claim %s: %w", object.KeyOf(claim), err)
		}
	}
	if p.create == nil {
		return nil
	}
	switch _, err := w.Create(ctx, p.create); {
	case apierrors.IsAlreadyExists(err):
		return nil // made by an attempt whose answer was lost: the name holds the claim's uid
	case err != nil:
		return fmt.Errorf("make volume %s: %w", p.create.Name, err)
	}
	c.cfg.Event(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume "+p.create.Name)
	return nil
}

// release deletes a volume that nobody has a claim on any more.
func (c *Controller) release(ctx context.Context, key object.Key, w client.Writer) error {
	v, err := c.cfg.Volumes.Get(key)
	if apierrors.IsNotFound(err) || err == nil && !obsolete(v) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read volume %s: %w", key, err)
	}
	// At the version seen: a policy that was changed to Retain meanwhile keeps it.
	if err := w.Delete(ctx, v, client.DeleteOptions{UID: v.UID, ResourceVersion: v.ResourceVersion}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete volume %s: %w", key, err)
	}
	return nil
}
