// Package podcidr gives every node a range of pod addresses.
package podcidr

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Config lists what the controller reads; every field is required.
type Config struct {
	Nodes *informer.Informer[*corev1.Node]
	// Range of all pods, IPv4.
	Range netip.Prefix
	// Bits is the prefix length of a node's range.
	Bits int
}

// Controller assigns ranges. Once a node has one it keeps it.
type Controller struct {
	cfg Config

	// Ranges handed out and perhaps not yet in the cache; guards against two workers
	// choosing the same one.
	mu      sync.Mutex
	pending map[string]netip.Prefix // by node
}

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg, pending: map[string]netip.Prefix{}} }

// Name is "podcidr".
func (*Controller) Name() string { return "podcidr" }

// Inputs are nodes.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Self(c.cfg.Nodes)}
}

// Outputs are the nodes' ranges.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{controller.Fields[*corev1.Node]("spec.podCIDR")}
}

// Reconcile gives one node a range.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	node, err := c.cfg.Nodes.Get(key)
	if apierrors.IsNotFound(err) || err == nil && node.Spec.PodCIDR != "" {
		c.mu.Lock()
		delete(c.pending, key.Name)
		c.mu.Unlock()
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read node %s: %w", key, err)
	}
	cidr, err := c.choose(node.Name)
	if err != nil {
		return 0, err
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"podCIDR": cidr.String(), "podCIDRs": []string{cidr.String()}},
	})
	if err != nil {
		return 0, err
	}
	if _, err := w.Patch(ctx, node, types.MergePatchType, patch, ""); err != nil {
		return 0, fmt.Errorf("assign %s: %w", cidr, err)
	}
	log.Info("assigned pod range", zap.Stringer("range", cidr))
	return 0, nil
}

func (c *Controller) choose(node string) (netip.Prefix, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cidr, ok := c.pending[node]; ok {
		return cidr, nil
	}
	used := map[netip.Prefix]bool{}
	for _, n := range c.cfg.Nodes.List() {
		if cidr, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil {
			used[cidr.Masked()] = true
		}
	}
	for _, cidr := range c.pending {
		used[cidr] = true
	}
	cidr, err := firstFree(c.cfg.Range, c.cfg.Bits, used)
	if err == nil {
		c.pending[node] = cidr
	}
	return cidr, err
}

// firstFree returns the first range of the given length that is not used.
func firstFree(whole netip.Prefix, bits int, used map[netip.Prefix]bool) (netip.Prefix, error) {
	if !whole.Addr().Is4() || bits < whole.Bits() || bits > 30 {
		return netip.Prefix{}, fmt.Errorf("pod range %s cannot be divided into /%d", whole, bits)
	}
	base := whole.Masked().Addr().As4()
	first := binary.BigEndian.Uint32(base[:])
	for i := range uint32(1) << (bits - whole.Bits()) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], first+i<<(32-bits))
		if cidr := netip.PrefixFrom(netip.AddrFrom4(b), bits); !used[cidr] {
			return cidr, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("pod range %s has no free /%d left: every one belongs to a node; remove nodes or install with a larger range", whole, bits)
}
