package placement_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
	"kijabi.dev/scheduler/internal/placement"
)

// claim's change is one of those below.
type claimChange func(*corev1.PersistentVolumeClaim)

func claim(name string, changes ...claimChange) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID("claim-" + name), ResourceVersion: "1"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("local"),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func boundTo(v string) claimChange {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Status.Phase = v, corev1.ClaimBound
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnBindCompleted, "yes")
	}
}

func selectedFor(node string) claimChange {
	return func(c *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnSelectedNode, node)
	}
}

func ofClass(name string) claimChange {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func forOnePod(c *corev1.PersistentVolumeClaim) {
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
}

// volumeOn is a volume that one node reaches.
func volumeOn(name, node, size string, refersTo ...*corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "local",
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, c := range refersTo {
		v, _ = volume.Reserve(v, c)
	}
	return v
}

func storageClass(name, provisioner string, mode storagev1.VolumeBindingMode, zones ...string) *storagev1.StorageClass {
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
	if len(zones) > 0 {
		class.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: zones}}}}
	}
	return class
}

func mounts(claims ...string) podChange {
	return func(p *corev1.Pod) {
		for i, name := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprint("v", i), VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}})
		}
	}
}

func scratch(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}})
}

// described says what a plan does.
func described(plan *placement.VolumePlan) string {
	if plan == nil {
		return ""
	}
	var out []string
	for _, r := range plan.Reserve {
		out = append(out, r.Claim.Name+"="+r.Volume.Name)
	}
	for _, c := range plan.Select {
		out = append(out, c.Name+" made")
	}
	for _, c := range plan.Selected {
		out = append(out, c.Name+" being made")
	}
	return strings.Join(out, ", ")
}

func TestPodsWithClaims(t *testing.T) {
	const wait = storagev1.VolumeBindingWaitForFirstConsumer
	own := claim("p-scratch")
	own.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "p", UID: "p", Controller: new(true)}}
	type claims = []*corev1.PersistentVolumeClaim
	type volumes = []*corev1.PersistentVolume
	tests := map[string]struct {
		claims  claims
		volumes volumes
		pods    []*corev1.Pod
		pod     *corev1.Pod
		want    string // node, or summary
		plan    string
	}{
		"its claim is not there": {pod: pod("p", mounts("data")), want: `0/2 nodes are available: persistentvolumeclaim "data" not found.`},
		"nor the one made for it": {
			pod: pod("p", scratch), want: `0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "p-scratch".`,
		},
		"which is another's": {
			claims: claims{claim("p-scratch")}, pod: pod("p", scratch), want: "0/2 nodes are available: PVC a/p-scratch was not created for pod a/p (pod is not owner).",
		},
		"which was made": {claims: claims{own}, pod: pod("p", scratch), want: "n1", plan: "p-scratch made"},
		"its claim is leaving": {
			claims: claims{claim("data", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} })}, pod: pod("p", mounts("data")),
			want: `0/2 nodes are available: persistentvolumeclaim "data" is being deleted.`,
		},
		"its claim is lost": {
			claims: claims{claim("data", boundTo("v"), func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })}, pod: pod("p", mounts("data")),
			want: `0/2 nodes are available: persistentvolumeclaim "data" bound to non-existent persistentvolume "v".`,
		},
		"its claim is to be bound at once": {
			claims: claims{claim("data", ofClass("immediate"))}, pod: pod("p", mounts("data")),
			want: "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
		},
		"a class that is not there waits for nobody": {
			claims: claims{claim("data", ofClass("none"))}, pod: pod("p", mounts("data")),
			want: "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
		},
		"a claim that names its volume is bound at once, too": {
			claims: claims{claim("data", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" })}, pod: pod("p", mounts("data")),
			want: "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
		},
		"where its volume is": {
			claims: claims{claim("data", boundTo("v"))}, volumes: volumes{volumeOn("v", "n2", "5Gi", claim("data"))}, pod: pod("p", mounts("data")), want: "n2",
		},
		"its volume is where it cannot be": {
			claims: claims{claim("data", boundTo("v"))}, volumes: volumes{volumeOn("v", "n9", "5Gi", claim("data"))}, pod: pod("p", mounts("data")),
			want: "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.",
		},
		"its volume is gone": {
			claims: claims{claim("data", boundTo("v"))}, pod: pod("p", mounts("data")),
			want: "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).",
		},
		"a volume is made where it goes": {claims: claims{claim("data")}, pod: pod("p", mounts("data")), want: "n1", plan: "data made"},
		"one that is there is taken": {
			claims: claims{claim("data", ofClass("static"))}, volumes: volumes{static("v", "n2", "9Gi"), static("w", "n2", "6Gi")}, pod: pod("p", mounts("data")), want: "n2", plan: "data=w",
		},
		"none is there, none is made": {
			claims: claims{claim("data", ofClass("static"))}, volumes: volumes{static("v", "n2", "4Gi")}, pod: pod("p", mounts("data")),
			want: "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.",
		},
		"two claims get two volumes": {
			claims: claims{claim("data", ofClass("static")), claim("log", ofClass("static"))}, pod: pod("p", mounts("data", "log")),
			volumes: volumes{static("v", "n1", "5Gi"), static("w", "n2", "5Gi"), static("x", "n2", "5Gi")}, want: "n2", plan: "data=w, log=x",
		},
		"only where its class allows": {claims: claims{claim("data", ofClass("zoned"))}, pod: pod("p", mounts("data")), want: "n2", plan: "data made"},
		"where it is being made":      {claims: claims{claim("data", selectedFor("n2"))}, pod: pod("p", mounts("data")), want: "n2", plan: "data being made"},
		"where a volume is reserved": {
			claims: claims{claim("data")}, volumes: volumes{volumeOn("v", "n2", "5Gi", claim("data"))}, pod: pod("p", mounts("data")), want: "n2", plan: "",
		},
		"a claim for one pod that another has": {
			claims: claims{claim("data", boundTo("v"), forOnePod)}, volumes: volumes{volumeOn("v", "n2", "5Gi", claim("data"))},
			pods: []*corev1.Pod{pod("x", on("n2"), mounts("data"))}, pod: pod("p", mounts("data")),
			want: "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.",
		},
		"others share it": {
			claims: claims{claim("data", boundTo("v"))}, volumes: volumes{volumeOn("v", "n2", "5Gi", claim("data"))},
			pods: []*corev1.Pod{pod("x", on("n2"), mounts("data"))}, pod: pod("p", mounts("data")), want: "n2",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := placement.NewCluster()
			c.SetNode(node("n1"))
			c.SetNode(node("n2", label("zone", "z2")))
			for _, class := range []*storagev1.StorageClass{
				storageClass("local", volume.LocalPath, wait), storageClass("static", volume.NoProvisioner, wait),
				storageClass("zoned", "x", wait, "z2"), storageClass("immediate", "x", storagev1.VolumeBindingImmediate),
			} {
				c.SetClass(class)
			}
			for _, one := range test.claims {
				c.SetClaim(one)
			}
			for _, one := range test.volumes {
				c.SetVolume(one)
			}
			for _, one := range test.pods {
				c.SetPod(one)
			}
			d := c.Decide(test.pod)
			got := d.Node
			if got == "" {
				got = d.Summary()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if plan := described(d.Volumes); plan != test.plan {
				t.Errorf("plan %q, not %q", plan, test.plan)
			}
		})
	}
}

func static(name, node, size string) *corev1.PersistentVolume {
	v := volumeOn(name, node, size)
	v.Spec.StorageClassName = "static"
	return v
}

// TestPromises assumes and forgets pods in any order: no volume is promised twice, no claim to
// two nodes, and in the end everything is free.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const wait = storagev1.VolumeBindingWaitForFirstConsumer
		c := placement.NewCluster()
		c.SetNode(node("n1"))
		c.SetNode(node("n2"))
		c.SetClass(storageClass("static", volume.NoProvisioner, wait))
		for i := range 4 {
			c.SetVolume(static(fmt.Sprint("v", i), fmt.Sprint("n", 1+i%2), "5Gi"))
			c.SetClaim(claim(fmt.Sprint("c", i), ofClass("static")))
		}
		promised := map[types.UID]*placement.VolumePlan{}
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "assume") {
				names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"c0", "c1", "c2", "c3"}), 1, 2, rapid.ID).Draw(t, "claims")
				p := pod(fmt.Sprint("p", i), mounts(names...))
				d := c.Decide(p)
				if d.Node == "" {
					continue
				}
				c.Assume(p, d.Node)
				if d.Volumes != nil {
					c.AssumeVolumes(p.UID, d.Node, d.Volumes)
					promised[p.UID] = d.Volumes
				}
			} else {
				for uid := range promised {
					c.Forget(uid)
					delete(promised, uid)
					break
				}
			}
			byVolume, byClaim := map[string]string{}, map[string]string{}
			for _, plan := range promised {
				for _, r := range plan.Reserve {
					if other, taken := byVolume[r.Volume.Name]; taken {
						t.Fatalf("%s is promised to %s and %s", r.Volume.Name, other, r.Claim.Name)
					}
					if other, has := byClaim[r.Claim.Name]; has {
						t.Fatalf("%s is promised %s and %s", r.Claim.Name, other, r.Volume.Name)
					}
					byVolume[r.Volume.Name], byClaim[r.Claim.Name] = r.Claim.Name, r.Volume.Name
				}
			}
		}
		for uid := range promised {
			c.Forget(uid)
		}
		if d := c.Decide(pod("last", mounts("c0", "c1"))); d.Node == "" || len(d.Volumes.Reserve) != 2 {
			t.Fatalf("something is kept back: %s", d.Summary())
		}
	})
}

func TestVolumesBound(t *testing.T) {
	c := placement.NewCluster()
	c.SetNode(node("n1"))
	c.SetClass(storageClass("local", volume.LocalPath, storagev1.VolumeBindingWaitForFirstConsumer))
	p := pod("p", mounts("data"))
	settled := false
	check := func(what string, wantBound bool, wantWhy string) {
		t.Helper()
		bound, why := c.VolumesBound(p, "n1", func(*corev1.PersistentVolumeClaim) bool { return settled })
		if bound != wantBound || (why == "") != (wantWhy == "") || !strings.Contains(why, wantWhy) {
			t.Errorf("%s: bound %v, %q", what, bound, why)
		}
	}
	check("no claim", false, "not found")
	c.SetClaim(claim("data"))
	check("the cache is behind", false, "")
	settled = true
	check("the selection was taken back", false, "no volume could be made")
	c.SetClaim(claim("data", selectedFor("n1")))
	check("it is being made", false, "")
	c.SetClaim(claim("data", selectedFor("n1"), boundTo("v")))
	check("bound to a volume not known yet", false, "")
	c.SetVolume(volumeOn("v", "n1", "5Gi", claim("data")))
	check("bound", true, "")
	c.SetVolume(volumeOn("v", "n2", "5Gi", claim("data")))
	check("bound elsewhere", false, "does not reach")
	c.RemoveNode("n1")
	check("no node", false, "gone")
	c.RemoveClaim(object.Key{Namespace: "a", Name: "data"})
}
