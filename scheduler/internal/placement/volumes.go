package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// storage is what the cluster knows of claims and volumes, and what it has promised to pods
// whose claims are being bound.
type storage struct {
	claims  map[object.Key]*corev1.PersistentVolumeClaim
	volumes map[string]*knownVolume
	classes map[string]*storagev1.StorageClass
	// free are the volumes that refer to no claim, by class; reserved those that refer to a
	// claim, by its key.
	free     map[string]map[string]*knownVolume
	reserved map[object.Key]map[string]*knownVolume
	// users are the pods on nodes that use a claim.
	users map[object.Key]map[types.UID]bool

	// promises are by pod; taken and chosen are the same by volume and by claim.
	promises map[types.UID]*VolumePlan
	taken    map[string]types.UID  // claim that will have a volume
	chosen   map[types.UID]promise // by the claim's uid
}

type promise struct {
	node string
	pod  types.UID
}

type knownVolume struct {
	object *corev1.PersistentVolume
	nodes  *nodeaffinity.LazyErrorNodeSelector // nil: all
}

func (v *knownVolume) reaches(n *corev1.Node) bool {
	if v.nodes == nil {
		return true
	}
	ok, err := v.nodes.Match(n)
	return ok && err == nil
}

func newStorage() *storage {
	return &storage{
		claims: map[object.Key]*corev1.PersistentVolumeClaim{}, volumes: map[string]*knownVolume{}, classes: map[string]*storagev1.StorageClass{},
		free: map[string]map[string]*knownVolume{}, reserved: map[object.Key]map[string]*knownVolume{},
		users:    map[object.Key]map[types.UID]bool{},
		promises: map[types.UID]*VolumePlan{}, taken: map[string]types.UID{}, chosen: map[types.UID]promise{},
	}
}

// SetClaim adds or replaces a claim.
func (c *Cluster) SetClaim(claim *corev1.PersistentVolumeClaim) {
	c.storage.claims[object.KeyOf(claim)] = claim
}

// RemoveClaim removes a claim.
func (c *Cluster) RemoveClaim(key object.Key) { delete(c.storage.claims, key) }

// SetClass adds or replaces a storage class.
func (c *Cluster) SetClass(class *storagev1.StorageClass) { c.storage.classes[class.Name] = class }

// RemoveClass removes a storage class.
func (c *Cluster) RemoveClass(name string) { delete(c.storage.classes, name) }

// SetVolume adds or replaces a volume.
func (c *Cluster) SetVolume(v *corev1.PersistentVolume) {
	c.RemoveVolume(v.Name)
	known := &knownVolume{object: v}
	if affinity := v.Spec.NodeAffinity; affinity != nil && affinity.Required != nil {
		known.nodes = nodeaffinity.NewLazyErrorNodeSelector(affinity.Required)
	}
	s := c.storage
	s.volumes[v.Name] = known
	if claim, ok := volume.ClaimOf(v); ok {
		put(s.reserved, claim, v.Name, known)
	} else {
		put(s.free, volume.ClassOf(v), v.Name, known)
	}
}

// Volume returns a volume as it is known, nil if there is none.
func (c *Cluster) Volume(name string) *corev1.PersistentVolume {
	if known := c.storage.volumes[name]; known != nil {
		return known.object
	}
	return nil
}

// RemoveVolume removes a volume.
func (c *Cluster) RemoveVolume(name string) {
	s := c.storage
	known, ok := s.volumes[name]
	if !ok {
		return
	}
	delete(s.volumes, name)
	if claim, ok := volume.ClaimOf(known.object); ok {
		drop(s.reserved, claim, name)
	} else {
		drop(s.free, volume.ClassOf(known.object), name)
	}
}

func put[K, L comparable, V any](index map[K]map[L]V, key K, name L, value V) {
	if index[key] == nil {
		index[key] = map[L]V{}
	}
	index[key][name] = value
}

func drop[K, L comparable, V any](index map[K]map[L]V, key K, name L) {
	delete(index[key], name)
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

// use notes that a pod on a node uses its claims, or no longer.
func (s *storage) use(pod *corev1.Pod, on bool) {
	for _, use := range volume.Uses(pod) {
		if on {
			put(s.users, use.Claim, pod.UID, true)
		} else {
			drop(s.users, use.Claim, pod.UID)
		}
	}
}

// VolumePlan is what has to be written before a pod with unbound claims can be bound to its
// node.
type VolumePlan struct {
	// Reserve are volumes that are there, each for its claim.
	Reserve []Reservation
	// Select are the claims for which a volume is to be made on the node.
	Select []*corev1.PersistentVolumeClaim
	// Selected are claims for which the node was selected before.
	Selected []*corev1.PersistentVolumeClaim
	// Claims are all that have to be bound, those included that others have taken care of.
	Claims []object.Key
}

// Reservation is a volume for a claim.
type Reservation struct {
	Volume *corev1.PersistentVolume
	Claim  *corev1.PersistentVolumeClaim
}

// needs is what a pod's claims demand of its node.
type needs struct {
	storage *storage
	volumes []*knownVolume // of the claims that are bound
	unbound []*corev1.PersistentVolumeClaim
	// missing: a bound claim's volume is not there. inUse: a claim is for one pod, and another has it.
	missing, inUse bool
}

// needs looks at a pod's claims: nil if it has none, and the reason if they let no node take
// the pod.
func (s *storage) needs(pod *corev1.Pod) (*needs, string) {
	uses := volume.Uses(pod)
	if len(uses) == 0 {
		return nil, ""
	}
	out := &needs{storage: s}
	immediate := false
	seen := map[object.Key]bool{}
	for _, use := range uses {
		if seen[use.Claim] {
			continue
		}
		seen[use.Claim] = true
		claim, why := s.usable(pod, use)
		if why != "" {
			return nil, why
		}
		if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			for other := range s.users[use.Claim] {
				out.inUse = out.inUse || other != pod.UID
			}
		}
		switch {
		case volume.FullyBound(claim) && s.volumes[claim.Spec.VolumeName] == nil:
			out.missing = true
		case volume.FullyBound(claim):
			out.volumes = append(out.volumes, s.volumes[claim.Spec.VolumeName])
		case claim.Spec.VolumeName == "" && volume.Delayed(s.classes[volume.ClassOfClaim(claim)]):
			out.unbound = append(out.unbound, claim)
		default:
			immediate = true
		}
	}
	if immediate {
		return nil, "pod has unbound immediate PersistentVolumeClaims"
	}
	// The smallest first: what is left for the large ones is then what they need.
	slices.SortFunc(out.unbound, func(a, b *corev1.PersistentVolumeClaim) int {
		left, right := a.Spec.Resources.Requests[corev1.ResourceStorage], b.Spec.Resources.Requests[corev1.ResourceStorage]
		return cmp.Or(left.Cmp(right), strings.Compare(a.Name, b.Name))
	})
	return out, ""
}

// usable returns a claim, or why no pod can be started with it.
func (s *storage) usable(pod *corev1.Pod, use volume.Use) (*corev1.PersistentVolumeClaim, string) {
	claim := s.claims[use.Claim]
	switch {
	case claim == nil && use.Ephemeral:
		return nil, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", use.Claim.Name)
	case claim == nil:
		return nil, fmt.Sprintf("persistentvolumeclaim %q not found", use.Claim.Name)
	case claim.Status.Phase == corev1.ClaimLost:
		return nil, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", claim.Name)
	case use.Ephemeral:
		if err := volume.MadeFor(claim, pod); err != nil {
			return nil, err.Error()
		}
	}
	return claim, ""
}

// noVolume is why a node is refused that has none of the volumes that a claim could get, and
// where none can be made.
const noVolume = "node(s) didn't find available persistent volumes to bind"

func claims(p *prepared, n *node) []string {
	if p.claims == nil {
		return nil
	}
	switch {
	case p.claims.inUse:
		return []string{"node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"}
	case p.claims.missing:
		return []string{"node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"}
	}
	for _, v := range p.claims.volumes {
		if !v.reaches(n.object) {
			return []string{"node(s) didn't match PersistentVolume's node affinity"}
		}
	}
	if _, ok := p.claims.plan(n); !ok {
		return []string{noVolume}
	}
	return nil
}

// plan finds a volume, or somebody to make one, for each unbound claim of a pod that would go
// to a node; nil if there is none.
func (d *needs) plan(n *node) (*VolumePlan, bool) {
	if d == nil || len(d.unbound) == 0 {
		return nil, true
	}
	out := &VolumePlan{}
	mine := map[string]bool{}
	for _, claim := range d.unbound {
		out.Claims = append(out.Claims, object.KeyOf(claim))
		selected := claim.Annotations[volume.AnnSelectedNode]
		if promised, ok := d.storage.chosen[claim.UID]; ok {
			selected = promised.node
		}
		if selected != "" {
			if selected != n.name {
				return nil, false
			}
			if claim.Annotations[volume.AnnSelectedNode] != "" {
				out.Selected = append(out.Selected, claim)
			}
			continue // under way
		}
		v, begun := d.storage.match(claim, n, mine)
		switch {
		case v != nil && begun: // only the binder has to go on
		case v != nil:
			mine[v.Name] = true
			out.Reserve = append(out.Reserve, Reservation{Volume: v, Claim: claim})
		case begun || !provisions(d.storage.classes[volume.ClassOfClaim(claim)], n.object):
			return nil, false
		default:
			out.Select = append(out.Select, claim)
		}
	}
	return out, true
}

// match finds a volume for a claim that can be reached from a node and is neither promised to
// another nor one of mine, nil if there is none. begun says that a volume refers to the claim
// by its uid, so that the claim can get no other.
func (s *storage) match(claim *corev1.PersistentVolumeClaim, n *node, mine map[string]bool) (found *corev1.PersistentVolume, begun bool) {
	var candidates []*corev1.PersistentVolume
	for _, v := range s.reserved[object.KeyOf(claim)] {
		candidates = append(candidates, v.object)
		begun = begun || v.object.Spec.ClaimRef.UID == claim.UID
	}
	for name, v := range s.free[volume.ClassOfClaim(claim)] {
		if holder, promised := s.taken[name]; !mine[name] && (!promised || holder == claim.UID) {
			candidates = append(candidates, v.object)
		}
	}
	return volume.Best(claim, candidates, begun, func(v *corev1.PersistentVolume) bool { return s.volumes[v.Name].reaches(n.object) }), begun
}

// provisions says whether a volume of a class can be made for a node.
func provisions(class *storagev1.StorageClass, n *corev1.Node) bool {
	if class == nil || class.Provisioner == "" || class.Provisioner == volume.NoProvisioner {
		return false
	}
	matches := func(term corev1.TopologySelectorTerm) bool {
		for _, want := range term.MatchLabelExpressions {
			if value, ok := n.Labels[want.Key]; !ok || !slices.Contains(want.Values, value) {
				return false
			}
		}
		return len(term.MatchLabelExpressions) > 0
	}
	return len(class.AllowedTopologies) == 0 || slices.ContainsFunc(class.AllowedTopologies, matches)
}

// AssumeVolumes promises a pod, which has been assumed on a node, what a plan says. Forget and
// RemovePod take it back.
func (c *Cluster) AssumeVolumes(pod types.UID, nodeName string, plan *VolumePlan) {
	s := c.storage
	s.promises[pod] = plan
	for _, r := range plan.Reserve {
		s.taken[r.Volume.Name] = r.Claim.UID
		s.chosen[r.Claim.UID] = promise{nodeName, pod}
	}
	for _, claim := range plan.Select {
		s.chosen[claim.UID] = promise{nodeName, pod}
	}
}

// breakPromise takes back what AssumeVolumes promised.
func (s *storage) breakPromise(pod types.UID) {
	plan, ok := s.promises[pod]
	if !ok {
		return
	}
	delete(s.promises, pod)
	for _, r := range plan.Reserve {
		delete(s.taken, r.Volume.Name)
	}
	maps.DeleteFunc(s.chosen, func(_ types.UID, p promise) bool { return p.pod == pod })
}

// VolumesBound says whether a pod's claims are all bound to volumes that can be reached from
// the node that was chosen for it, and if they will never be, why not. settled tells whether
// the cluster knows a claim as it was after the scheduler selected the node for it, so that
// the selection is gone if it does not show.
func (c *Cluster) VolumesBound(pod *corev1.Pod, nodeName string, settled func(*corev1.PersistentVolumeClaim) bool) (bound bool, why string) {
	n := c.nodes[nodeName]
	if n == nil || n.object == nil {
		return false, fmt.Sprintf("node %q is gone", nodeName)
	}
	s := c.storage
	bound = true
	for _, use := range volume.Uses(pod) {
		claim, why := s.usable(pod, use)
		if why != "" {
			return false, why
		}
		if !volume.FullyBound(claim) {
			bound = false
			if claim.Spec.VolumeName == "" && claim.Annotations[volume.AnnSelectedNode] != nodeName && settled(claim) {
				return false, fmt.Sprintf("no volume could be made for persistentvolumeclaim %q on node %q", claim.Name, nodeName)
			}
			continue
		}
		v := s.volumes[claim.Spec.VolumeName]
		if v == nil {
			bound = false
		} else if !v.reaches(n.object) {
			return false, fmt.Sprintf("persistentvolumeclaim %q was bound to a volume that node %q does not reach", claim.Name, nodeName)
		}
	}
	return bound, ""
}
