// Package placement decides where a pod goes. It holds what the scheduler knows of
// nodes and of the pods on them, among them pods whose binding is under way.
package placement

import (
	"container/list"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
)

// Resources is an amount of each resource: CPU in millicores, the rest in units.
type Resources map[corev1.ResourceName]int64

func resourcesOf(list corev1.ResourceList) Resources {
	out := make(Resources, len(list))
	for name, quantity := range list {
		if name == corev1.ResourceCPU {
			out[name] = quantity.MilliValue()
		} else {
			out[name] = quantity.Value()
		}
	}
	return out
}

func (r Resources) add(other Resources, sign int64) {
	for name, amount := range other {
		r[name] += sign * amount
	}
}

// Requests returns what a pod asks for, one pod slot included.
func Requests(pod *corev1.Pod) Resources {
	out := resourcesOf(resource.PodRequests(pod, resource.PodResourcesOptions{}))
	out[corev1.ResourcePods] = 1
	return out
}

// node is one node and what its pods take of it.
type node struct {
	object      *corev1.Node // nil while only its pods are known
	name        string
	allocatable Resources
	requested   Resources
	pods        map[types.UID]*placed
	ports       map[hostPort]int

	changed uint64        // see following
	element *list.Element // in following.recent
}

// placed is a pod on a node.
type placed struct {
	pod      *corev1.Pod
	requests Resources
	node     string
	// assumed pods are not yet bound as far as the cache shows.
	assumed bool
}

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

func hostPorts(pod *corev1.Pod) []hostPort {
	var out []hostPort
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			protocol := p.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			ip := p.HostIP
			if ip == "" {
				ip = "0.0.0.0"
			}
			out = append(out, hostPort{ip: ip, protocol: protocol, port: p.HostPort})
		}
	}
	return out
}

// Cluster is what the scheduler knows. It is not safe for concurrent use.
type Cluster struct {
	nodes map[string]*node
	pods  map[types.UID]*placed
	order []*node // nodes with an object, by name
	// exclusive are the pods with required anti-affinity, which may refuse others.
	exclusive map[types.UID]*placed
	storage   *storage

	following
}

// NewCluster returns an empty cluster.
func NewCluster() *Cluster {
	return &Cluster{
		nodes: map[string]*node{}, pods: map[types.UID]*placed{}, exclusive: map[types.UID]*placed{}, storage: newStorage(), following: newFollowing(),
	}
}

func (c *Cluster) node(name string) *node {
	n, ok := c.nodes[name]
	if !ok {
		n = &node{name: name, requested: Resources{}, pods: map[types.UID]*placed{}, ports: map[hostPort]int{}}
		c.nodes[name] = n
	}
	return n
}

// SetNode adds or replaces a node.
func (c *Cluster) SetNode(object *corev1.Node) {
	n := c.node(object.Name)
	isNew := n.object == nil
	n.object, n.allocatable = object, resourcesOf(object.Status.Allocatable)
	c.touch(n)
	if isNew {
		c.orders++
		c.order = append(c.order, n)
		slices.SortFunc(c.order, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	}
}

// RemoveNode removes a node; its pods stay known until they are removed.
func (c *Cluster) RemoveNode(name string) {
	n, ok := c.nodes[name]
	if !ok || n.object == nil {
		return
	}
	n.object = nil
	c.orders++
	c.order = slices.DeleteFunc(c.order, func(o *node) bool { return o == n })
	if len(n.pods) == 0 {
		c.leave(n)
		delete(c.nodes, name)
	}
}

// SetPod adds or replaces a pod that is bound to a node. It confirms an assumed one.
func (c *Cluster) SetPod(pod *corev1.Pod) { c.put(pod, pod.Spec.NodeName, false) }

// Assume takes a node's resources for a pod whose binding is under way.
func (c *Cluster) Assume(pod *corev1.Pod, nodeName string) { c.put(pod, nodeName, true) }

// Forget gives back what Assume took, unless the pod has been confirmed since.
func (c *Cluster) Forget(uid types.UID) {
	if p, ok := c.pods[uid]; ok && p.assumed {
		c.RemovePod(uid)
	}
}

// ForgetAssumed gives back what every unconfirmed Assume took.
func (c *Cluster) ForgetAssumed() {
	for uid, p := range c.pods {
		if p.assumed {
			c.RemovePod(uid)
		}
	}
}

func (c *Cluster) put(pod *corev1.Pod, nodeName string, assumed bool) {
	c.RemovePod(pod.UID)
	p := &placed{pod: pod, requests: Requests(pod), node: nodeName, assumed: assumed}
	n := c.node(nodeName)
	n.pods[pod.UID] = p
	n.requested.add(p.requests, 1)
	for _, port := range hostPorts(pod) {
		n.ports[port]++
	}
	c.pods[pod.UID] = p
	c.count(ownerOf(pod), n, 1)
	c.touch(n)
	c.storage.use(pod, true)
	if len(requiredAntiAffinity(pod)) > 0 {
		c.exclusive[pod.UID] = p
	}
}

// RemovePod removes a pod, wherever it is.
func (c *Cluster) RemovePod(uid types.UID) {
	p, ok := c.pods[uid]
	if !ok {
		return
	}
	delete(c.pods, uid)
	delete(c.exclusive, uid)
	c.storage.breakPromise(uid)
	c.storage.use(p.pod, false)
	n := c.nodes[p.node]
	delete(n.pods, uid)
	n.requested.add(p.requests, -1)
	maps.DeleteFunc(n.requested, func(_ corev1.ResourceName, amount int64) bool { return amount == 0 })
	for _, port := range hostPorts(p.pod) {
		if n.ports[port]--; n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
	c.count(ownerOf(p.pod), n, -1)
	c.touch(n)
	if n.object == nil && len(n.pods) == 0 {
		c.leave(n)
		delete(c.nodes, n.name)
	}
}

// Nodes returns how many nodes are known.
func (c *Cluster) Nodes() int { return len(c.order) }
