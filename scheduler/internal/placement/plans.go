package placement

import (
	"container/heap"
	"container/list"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/lru"
)

// Most pods are like many others: they ask for the same and may go to the same nodes. What
// was found for one is kept as a plan, and only the nodes that have changed since are asked
// again. A node changes by itself and by each pod that comes or goes.

// plansKept bounds the remembered plans; a plan takes about 70 bytes a node.
const plansKept = 64

// smallCluster is up to how many nodes a decision lists each one's verdict even if the pod
// found a place.
const smallCluster = 100

// crowd is from how many pods of one owner on the pods of the owner have a plan of their own,
// in whose scores the siblings on each node are contained. A smaller owner's pods share a plan with others,
// and the few nodes that have siblings are weighed apart.
const crowd = 16

// plan is the ranking of all nodes for pods of one shape. The heap order is: higher score,
// fewer pods, first by name.
type plan struct {
	prepared *prepared
	owner    string // whose siblings the scores contain; empty if none
	ranks    []*rank
	byNode   map[*node]*rank
	seen     uint64 // changes of nodes up to here are in the ranks
	order    uint64 // the cluster's set of nodes it was made for
}

// rank is one node in a plan.
type rank struct {
	node    *node
	place   int // in the cluster's order
	reasons []string
	score   float64
	pods    int
	index   int // in the heap
}

// before says whether a node is the better choice.
func (r *rank) before(other *rank) bool {
	switch {
	case (len(r.reasons) == 0) != (len(other.reasons) == 0):
		return len(r.reasons) == 0
	case r.score != other.score:
		return r.score > other.score
	case r.pods != other.pods:
		return r.pods < other.pods
	}
	return r.place < other.place
}

// ranking is a heap of ranks, for package heap.
type ranking []*rank

func (r ranking) Len() int           { return len(r) }
func (r ranking) Less(i, j int) bool { return r[i].before(r[j]) }
func (r ranking) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].index, r[j].index = i, j
}

// Push is not used: plans are made whole.
func (r ranking) Push(any) { panic("ranks do not come one by one") }

// Pop is not used: nodes stay in a plan.
func (r ranking) Pop() any { panic("ranks do not go one by one") }

// Choose is Decide for pods that are to be placed now: it chooses the same node, sooner if
// there are many nodes and many pods alike. Verdicts then lists all nodes only if the pod fits
// nowhere or the cluster is small; else the chosen one's alone.
func (c *Cluster) Choose(pod *corev1.Pod) Decision {
	if !c.alike(pod) {
		return c.Decide(pod)
	}
	p := c.planFor(pod)
	best := p.best(c.siblingsOf(ownerOf(pod)))
	if best == nil || len(c.order) <= smallCluster {
		return p.decision(best, len(c.order))
	}
	return Decision{Node: best.node.name, Verdicts: []Verdict{{Node: best.node.name, Score: best.score}}}
}

// alike says whether what other nodes hold is of no matter to a pod, so that a node's verdict
// on it changes only when that node does.
func (c *Cluster) alike(pod *corev1.Pod) bool {
	if len(c.exclusive) > 0 || len(pod.Spec.TopologySpreadConstraints) > 0 || pod.Spec.NodeName != "" {
		return false
	}
	if a := pod.Spec.Affinity; a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil) {
		return false
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return false
		}
	}
	return true
}

// shapeOf encodes what filters and scores read of a pod that is alike.
func shapeOf(pod *corev1.Pod) string {
	shape := corev1.PodSpec{
		NodeSelector: pod.Spec.NodeSelector, Affinity: pod.Spec.Affinity, Tolerations: pod.Spec.Tolerations,
		Overhead: pod.Spec.Overhead, Resources: pod.Spec.Resources,
		InitContainers: asking(pod.Spec.InitContainers), Containers: asking(pod.Spec.Containers),
	}
	encoded, err := shape.Marshal()
	if err != nil {
		return string(pod.UID) // it is alone
	}
	return string(encoded)
}

// asking leaves of containers what they ask of a node.
func asking(containers []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, len(containers))
	for i := range containers {
		c := &containers[i]
		out[i].Resources, out[i].RestartPolicy = c.Resources, c.RestartPolicy
		for _, port := range c.Ports {
			if port.HostPort != 0 {
				out[i].Ports = append(out[i].Ports, port)
			}
		}
	}
	return out
}

// planFor returns the pod's plan, brought up to date.
func (c *Cluster) planFor(pod *corev1.Pod) *plan {
	owner := ownerOf(pod)
	if c.owners[owner].pods < crowd {
		owner = ""
	}
	key := owner + "/" + shapeOf(pod)
	if known, ok := c.plans.Get(key); ok {
		if p := known.(*plan); p.order == c.orders {
			p.follow(c)
			return p
		}
	}
	p := &plan{prepared: c.prepare(pod), owner: owner, byNode: make(map[*node]*rank, len(c.order)), seen: c.changes, order: c.orders}
	for i, n := range c.order {
		r := &rank{node: n, place: i, index: i}
		p.weigh(c, r)
		p.ranks, p.byNode[n] = append(p.ranks, r), r
	}
	heap.Init(ranking(p.ranks))
	c.plans.Add(key, p)
	return p
}

// follow asks the nodes again that have changed.
func (p *plan) follow(c *Cluster) {
	for e := c.recent.Front(); e != nil; e = e.Next() {
		n := e.Value.(*node)
		if n.changed <= p.seen {
			break
		}
		if r := p.byNode[n]; r != nil {
			p.weigh(c, r)
			heap.Fix(ranking(p.ranks), r.index)
		}
	}
	p.seen = c.changes
}

// weigh asks one node.
func (p *plan) weigh(c *Cluster, r *rank) {
	r.reasons, r.score, r.pods = refusals(p.prepared, r.node), 0, len(r.node.pods)
	if len(r.reasons) == 0 {
		r.score = score(p.prepared, r.node, c.owners[p.owner].on[r.node])
	}
}

// best returns the best node, nil if none fits. Siblings are the nodes with pods of the same
// owner, which count against them unless the scores contain them.
func (p *plan) best(siblings map[*node]int) *rank {
	if p.owner != "" || len(siblings) == 0 {
		if len(p.ranks) == 0 || len(p.ranks[0].reasons) > 0 {
			return nil
		}
		return p.ranks[0]
	}
	best := p.bestWithout(siblings, 0)
	for n, count := range siblings {
		r := p.byNode[n]
		if r == nil || len(r.reasons) > 0 {
			continue
		}
		weighed := *r
		weighed.score = score(p.prepared, n, count)
		if best == nil || weighed.before(best) {
			best = &weighed
		}
	}
	return best
}

// bestWithout returns the best fitting node below a place of the heap that is not among some. In a heap
// what is below a node is no better than it, so it looks at about twice as many nodes as those are.
func (p *plan) bestWithout(some map[*node]int, at int) *rank {
	if at >= len(p.ranks) || len(p.ranks[at].reasons) > 0 {
		return nil
	}
	r := p.ranks[at]
	if _, among := some[r.node]; !among {
		return r
	}
	a, b := p.bestWithout(some, 2*at+1), p.bestWithout(some, 2*at+2)
	if a == nil || b != nil && b.before(a) {
		return b
	}
	return a
}

// decision lists all nodes' verdicts.
func (p *plan) decision(best *rank, nodes int) Decision {
	d := Decision{Verdicts: make([]Verdict, nodes)}
	for _, r := range p.ranks {
		d.Verdicts[r.place] = Verdict{Node: r.node.name, Reasons: r.reasons, Score: r.score}
	}
	if best != nil {
		d.Node = best.node.name
		d.Verdicts[best.place].Score = best.score
	}
	return d
}

// following is what plans need of a cluster to follow it.
type following struct {
	changes uint64 // counts changes of nodes
	orders  uint64 // counts changes of the set of nodes
	recent  *list.List
	owners  map[string]crew
	plans   *lru.Cache
}

// crew is the pods of one owner.
type crew struct {
	pods int
	on   map[*node]int
}

func newFollowing() following {
	return following{recent: list.New(), owners: map[string]crew{}, plans: lru.New(plansKept)}
}

// touch notes that a node has changed.
func (f *following) touch(n *node) {
	f.changes++
	n.changed = f.changes
	if n.element == nil {
		n.element = f.recent.PushFront(n)
		return
	}
	f.recent.MoveToFront(n.element)
}

// leave notes that a node is no more.
func (f *following) leave(n *node) {
	if n.element != nil {
		f.recent.Remove(n.element)
		n.element = nil
	}
}

// count notes that a pod of an owner came to a node (1) or went (-1).
func (f *following) count(owner string, n *node, by int) {
	if owner == "" {
		return
	}
	c, ok := f.owners[owner]
	if !ok {
		c.on = map[*node]int{}
	}
	c.pods += by
	if c.on[n] += by; c.on[n] == 0 {
		delete(c.on, n)
	}
	if c.pods == 0 {
		delete(f.owners, owner)
		return
	}
	f.owners[owner] = c
}

func (f *following) siblingsOf(owner string) map[*node]int { return f.owners[owner].on }
