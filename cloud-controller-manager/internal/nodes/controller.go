// Package nodes writes what the cloud says of a machine into its Node: provider id,
// type, zone, region; it removes nodes whose machine is gone for good.
package nodes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	cloudv1pb "kijabi.dev/proto/gen/kijabi/cloud/v1"
)

// Taints of nodes the cloud has a word on.
const (
	taintUninitialized = "node.cloudprovider.kubernetes.io/uninitialized"
	taintShutdown      = "node.cloudprovider.kubernetes.io/shutdown"
)

// again is how often a node's machine is asked about.
const again = 5 * time.Minute

// Config lists what the controller reads; every field is required.
type Config struct {
	Nodes    *informer.Informer[*corev1.Node]
	Provider cloudv1pb.CloudProviderServiceClient
}

// Controller keeps nodes in step with their machines.
type Controller struct{ cfg Config }

var _ controller.Controller = (*Controller)(nil)

// New returns the controller.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Name is "cloud-node".
func (*Controller) Name() string { return "cloud-node" }

// Inputs are nodes.
func (c *Controller) Inputs() []controller.Input {
	return []controller.Input{controller.Self(c.cfg.Nodes)}
}

// Outputs are what the cloud knows of nodes.
func (*Controller) Outputs() []controller.Output {
	return []controller.Output{
		controller.Fields[*corev1.Node]("spec.providerID, cloud labels and taints"),
		controller.Deletes[*corev1.Node]("its machine is gone"),
	}
}

// Reconcile asks the provider about one node's machine.
func (c *Controller) Reconcile(ctx context.Context, key object.Key, w client.Writer, log *zap.Logger) (time.Duration, error) {
	node, err := c.cfg.Nodes.Get(key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read node %s: %w", key, err)
	}
	req := &cloudv1pb.GetInstanceRequest{Node: node.Name, ProviderId: node.Spec.ProviderID}
	for _, address := range node.Status.Addresses {
		req.ReportedAddresses = append(req.ReportedAddresses, &cloudv1pb.NodeAddress{Type: string(address.Type), Address: address.Address})
	}
	instance, err := c.cfg.Provider.GetInstance(ctx, req)
	if apierrors.IsNotFound(err) {
		log.Info("machine is gone, removing node")
		err := w.Delete(ctx, node, client.DeleteOptions{UID: node.UID})
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return 0, err
	}
	if err != nil {
		return 0, fmt.Errorf("provider: instance of node %s: %w", key, err)
	}
	updated := decide(node, instance)
	if equality.Semantic.DeepEqual(updated, node) {
		return again, nil
	}
	if _, err := w.Update(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("update node %s: %w", key, err)
	}
	return again, nil
}

// decide returns the node as the provider's answer wants it. It is pure.
func decide(node *corev1.Node, instance *cloudv1pb.GetInstanceResponse) *corev1.Node {
	out := node.DeepCopy()
	if out.Spec.ProviderID == "" {
		out.Spec.ProviderID = instance.GetProviderId()
	}
	labels := map[string]string{
		corev1.LabelInstanceTypeStable: instance.GetInstanceType(),
		corev1.LabelTopologyZone:       instance.GetZone(),
		corev1.LabelTopologyRegion:     instance.GetRegion(),
	}
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	maps.Copy(out.Labels, labels)
	// A state that the provider does not know changes nothing.
	running := instance.GetState() == cloudv1pb.InstanceState_INSTANCE_STATE_RUNNING
	shutdown := instance.GetState() == cloudv1pb.InstanceState_INSTANCE_STATE_SHUTDOWN
	out.Spec.Taints = slices.DeleteFunc(out.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == taintUninitialized || t.Key == taintShutdown && running
	})
	if shutdown && !slices.ContainsFunc(out.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintShutdown }) {
		out.Spec.Taints = append(out.Spec.Taints, corev1.Taint{Key: taintShutdown, Effect: corev1.TaintEffectNoSchedule})
	}
	return out
}
