// Package attachdetach asks drivers' attachers to attach volumes to the nodes whose pods use
// them, and to detach them once nobody does and the node has unmounted them: by
// VolumeAttachments, which stock CSI attachers carry out. A volume that one node at a time may
// have is never asked for on a second one.
//
// Keys are volumes, so that there is one decision at a time on each.
package attachdetach

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

// Indexes that the informer of attachments must have.
const (
	IndexVolume = "attachdetach-volume"
	IndexNode   = "attachdetach-node"
)

// OfVolume is IndexVolume's function.
func OfVolume(a *storagev1.VolumeAttachment) []string {
	key, ok := ofVolume(a)
	if !ok {
		return nil
	}
	return []string{key.Name}
}

// OfNode is IndexNode's function.
func OfNode(a *storagev1.VolumeAttachment) []string { return []string{a.Spec.NodeName} }

// Config lists what the controller reads; every field is required.
type Config struct {
	Claims  *informer.Informer[*corev1.PersistentVolumeClaim]
	Volumes *informer.Informer[*corev1.PersistentVolume]
	// Pods have index IndexPodClaims of package storage.
	Pods  *informer.Informer[*corev1.Pod]
	Nodes *informer.Informer[*corev1.Node]
	// Attachments have indexes IndexVolume and IndexNode.
	Attachments *informer.Informer[*storagev1.VolumeAttachment]
	Drivers     *informer.Informer[*storagev1.CSIDriver]
	// API lists attachments that the cache may not show yet, before one is added.
	API *client.Client
	// Event tells users what happened; it must not block.
	Event func(about object.Object, severity, reason, message string)
}

// Controller attaches and detaches volumes.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "attachdetach".
func (*Controller) Name() string { return "attachdetach" }

// Inputs are volumes, their attachments, the pods that use them, and nodes.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{
		controller.Mapped(c.cfg.Volumes, func(v *corev1.PersistentVolume) []object.Key {
			if v.Spec.CSI == nil {
				return nil
			}
			return []object.Key{object.KeyOf(v)}
		}),
		controller.Mapped(c.cfg.Attachments, func(a *storagev1.VolumeAttachment) []object.Key {
			if key, ok := ofVolume(a); ok {
				return []object.Key{key}
			}
			return nil
		}),
		controller.Mapped(c.cfg.Pods, func(pod *corev1.Pod) []object.Key {
			if pod.Spec.NodeName == "" {
				return nil
			}
			var keys []object.Key
			for _, use := range volume.Uses(pod) {
				if claim, err := c.cfg.Claims.Get(use.Claim); err == nil && claim.Spec.VolumeName != "" {
					keys = append(keys, object.Key{Name: claim.Spec.VolumeName})
				}
			}
			return keys
		}),
		controller.Mapped(c.cfg.Claims, func(claim *corev1.PersistentVolumeClaim) []object.Key {
			if !volume.FullyBound(claim) {
				return nil
			}
			return []object.Key{{Name: claim.Spec.VolumeName}}
		}),
		controller.Mapped(c.cfg.Nodes, func(node *corev1.Node) []object.Key {
			var keys []object.Key
			for _, a := range c.cfg.Attachments.ByIndex(IndexNode, node.Name) {
				if key, ok := ofVolume(a); ok {
					keys = append(keys, key)
				}
			}
			return keys
		}),
		controller.Mapped(c.cfg.Drivers, func(driver *storagev1.CSIDriver) []object.Key {
			var keys []object.Key
			for _, v := range c.cfg.Volumes.List() {
				if v.Spec.CSI != nil && v.Spec.CSI.Driver == driver.Name {
					keys = append(keys, object.KeyOf(v))
				}
			}
			return keys
		}),
	}
}

// Outputs are attachments, and what nodes say of them.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Owns[*storagev1.VolumeAttachment]("PersistentVolume"),
		controller.StatusPart[*corev1.Node]("volumesAttached"),
	}
}

// Reconcile attaches and detaches one volume.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	v, err := c.cfg.Volumes.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil // its attacher keeps a volume, by a finalizer, as long as it is attached
	}
	if err != nil {
		return 0, fmt.Errorf("read volume %s: %w", key, err)
	}
	if v.Spec.CSI == nil || !c.attaches(v.Spec.CSI.Driver) {
		return 0, nil
	}
	p := decide(&state{
		volume: v, pods: c.podsOf(v), attachments: c.cfg.Attachments.ByIndex(IndexVolume, v.Name),
		node: func(name string) *corev1.Node {
			node, err := c.cfg.Nodes.Get(object.Key{Name: name})
			if err != nil {
				return nil
			}
			return node
		},
	})
	log.Debug("decided", zap.Int("attach", len(p.attach)), zap.Int("detach", len(p.detach)))
	return 0, c.apply(ctx, w, v, p)
}

// attaches says whether a driver has volumes attached; without an object that says so it does.
func (c *Controller) attaches(driver string) bool {
	d, err := c.cfg.Drivers.Get(object.Key{Name: driver})
	return err != nil || d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
}

// podsOf are the pods on nodes that use the claim that a volume is bound to.
func (c *Controller) podsOf(v *corev1.PersistentVolume) []*corev1.Pod {
	key, ok := volume.ClaimOf(v)
	if !ok {
		return nil
	}
	claim, err := c.cfg.Claims.Get(key)
	if err != nil || claim.UID != v.Spec.ClaimRef.UID || claim.Spec.VolumeName != v.Name || !volume.FullyBound(claim) {
		return nil
	}
	var pods []*corev1.Pod
	for _, pod := range c.cfg.Pods.ByIndex(storage.IndexPodClaims, key.String()) {
		if pod.Spec.NodeName != "" {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (c *Controller) apply(ctx context.Context, w client.Writer, v *corev1.PersistentVolume, p plan) error {
	for _, node := range p.nodes {
		if _, err := w.UpdateStatus(ctx, node); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("status of node %s: %w", node.Name, err)
		}
	}
	for _, e := range p.events {
		c.cfg.Event(e.about, e.severity, e.reason, e.message)
	}
	for _, a := range p.detach {
		if err := w.Delete(ctx, a, client.DeleteOptions{UID: a.UID}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("detach volume %s from node %s: %w", v.Name, a.Spec.NodeName, err)
		}
	}
	if len(p.attach) > 0 && exclusive(v) {
		if err := c.alone(ctx, v, p.attach[0]); err != nil {
			return err
		}
	}
	for _, a := range p.attach {
		if _, err := w.Create(ctx, a); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("attach volume %s to node %s: %w", v.Name, a.Spec.NodeName, err)
		}
	}
	return nil
}

// alone returns an error if the store knows an attachment of a volume to another node, which
// an earlier leader may have made and the cache may not show yet.
func (c *Controller) alone(ctx context.Context, v *corev1.PersistentVolume, wanted *storagev1.VolumeAttachment) error {
	page, err := client.List[*storagev1.VolumeAttachment](ctx, c.cfg.API, client.ListOptions{})
	if err != nil {
		return fmt.Errorf("list attachments: %w", err)
	}
	for _, a := range page.Items {
		if key, ok := ofVolume(a); ok && key.Name == v.Name && a.Spec.NodeName != wanted.Spec.NodeName {
			return fmt.Errorf("volume %s is attached to node %s as well", v.Name, a.Spec.NodeName)
		}
	}
	return nil
}
