package persistentvolumebinder

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/kube/volume"
)

// world is a small store: claims and volumes by name, with versions. Writes are refused at
// another version than they were decided on, as the apiserver does.
type world struct {
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	version int
}

func newWorld(claims []*corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume) *world {
	w := &world{claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{}}
	for _, c := range claims {
		w.put(c)
	}
	for _, v := range volumes {
		w.put(v)
	}
	return w
}

func (w *world) put(obj object.Object) {
	w.version++
	obj = obj.DeepCopyObject().(object.Object)
	obj.SetResourceVersion(fmt.Sprint(w.version))
	switch obj := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		w.claims[obj.Name] = obj
	case *corev1.PersistentVolume:
		w.volumes[obj.Name] = obj
	}
}

// clone shares the objects, which are replaced and never changed.
func (w *world) clone() *world {
	return &world{claims: maps.Clone(w.claims), volumes: maps.Clone(w.volumes), version: w.version}
}

// step decides on one object as seen in a view of the world, and writes to the world itself.
func (w *world) step(view *world, of object.Object) (changed bool) {
	var s step
	switch of := of.(type) {
	case *corev1.PersistentVolumeClaim:
		claim := view.claims[of.Name]
		if claim == nil {
			return false
		}
		with := &surroundings{volumes: slices.Collect(maps.Values(view.volumes))}
		_, with.gone = w.volumes[claim.Spec.VolumeName] // the store is asked, not the view
		with.gone = !with.gone
		s = decideClaim(claim, with)
	case *corev1.PersistentVolume:
		v := view.volumes[of.Name]
		if v == nil {
			return false
		}
		s = decideVolume(v, w.claimOf(view, v))
	}
	if s.write == nil {
		return false
	}
	var have object.Object
	switch written := s.write.(type) {
	case *corev1.PersistentVolumeClaim:
		if c := w.claims[written.Name]; c != nil {
			have = c
		}
	case *corev1.PersistentVolume:
		if v := w.volumes[written.Name]; v != nil {
			have = v
		}
	}
	if have == nil || have.GetResourceVersion() != s.write.GetResourceVersion() || have.GetUID() != s.write.GetUID() {
		return false // a conflict
	}
	w.put(s.write)
	return true
}

// claimOf does what the controller does: the view first, then the store.
func (w *world) claimOf(view *world, v *corev1.PersistentVolume) *corev1.PersistentVolumeClaim {
	ref := v.Spec.ClaimRef
	if ref == nil {
		return nil
	}
	for _, from := range []*world{view, w} {
		if c := from.claims[ref.Name]; c != nil && volume.ReservedFor(v, c) {
			return c
		}
	}
	return nil
}

func completed(c *corev1.PersistentVolumeClaim) bool { return volume.FullyBound(c) }

// wrong says what must never be so, whatever was written last.
func (w *world) wrong() string {
	holders := map[string]string{}
	for _, c := range w.claims {
		if !completed(c) {
			continue
		}
		if other, taken := holders[c.Spec.VolumeName]; taken {
			return fmt.Sprintf("claims %s and %s are both bound to %s", other, c.Name, c.Spec.VolumeName)
		}
		holders[c.Spec.VolumeName] = c.Name
		v := w.volumes[c.Spec.VolumeName]
		if v != nil && (v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID) {
			return fmt.Sprintf("claim %s is bound to %s, which refers to %v", c.Name, v.Name, v.Spec.ClaimRef)
		}
		if c.Status.Phase == corev1.ClaimLost {
			return fmt.Sprintf("claim %s is lost", c.Name)
		}
	}
	return ""
}

// key tells worlds apart by all that decisions depend on.
func (w *world) key() string {
	var out []string
	for _, c := range w.claims {
		out = append(out, fmt.Sprint("c", c.Name, c.UID, c.Spec.VolumeName, c.Status.Phase, len(c.Annotations)))
	}
	for _, v := range w.volumes {
		ref := ""
		if v.Spec.ClaimRef != nil {
			ref = string(v.Spec.ClaimRef.UID) + v.Spec.ClaimRef.Name
		}
		out = append(out, fmt.Sprint("v", v.Name, ref, v.Status.Phase, len(v.Annotations)))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w *world) objects() []object.Object {
	var out []object.Object
	for _, name := range slices.Sorted(maps.Keys(w.claims)) {
		out = append(out, w.claims[name])
	}
	for _, name := range slices.Sorted(maps.Keys(w.volumes)) {
		out = append(out, w.volumes[name])
	}
	return out
}

func numbered(n int, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := testClaim(change...)
	c.Name, c.UID = fmt.Sprint("c", n), uid(n)
	return c
}

// TestEveryOrderOfWrites takes every object's next step in every order. Since a step is one
// write and begins from what is stored, this is also every way of ending in between and being
// continued by somebody else.
func TestEveryOrderOfWrites(t *testing.T) {
	for name, start := range map[string]*world{
		"more claims than volumes": newWorld(
			[]*corev1.PersistentVolumeClaim{numbered(1), numbered(2), numbered(3)},
			[]*corev1.PersistentVolume{testVolume("a", "5Gi", pendingVolume), testVolume("b", "9Gi")}),
		"two name the same volume": newWorld(
			[]*corev1.PersistentVolumeClaim{numbered(1, named("a")), numbered(2, named("a"))},
			[]*corev1.PersistentVolume{testVolume("a", "5Gi"), testVolume("b", "9Gi")}),
		"one is reserved": newWorld(
			[]*corev1.PersistentVolumeClaim{numbered(1), numbered(2, named("b"))},
			[]*corev1.PersistentVolume{testVolume("a", "5Gi"), testVolume("b", "9Gi", refersTo("c1", ""))}),
	} {
		t.Run(name, func(t *testing.T) {
			seen, settled := map[string]bool{}, 0
			next := []*world{start}
			for len(next) > 0 {
				w := next[len(next)-1]
				next = next[:len(next)-1]
				if seen[w.key()] {
					continue
				}
				seen[w.key()] = true
				if wrong := w.wrong(); wrong != "" {
					t.Fatalf("%s: %s", wrong, w.key())
				}
				still := true
				for _, obj := range w.objects() {
					after := w.clone()
					if after.step(w, obj) {
						still = false
						next = append(next, after)
					}
				}
				if !still {
					continue
				}
				settled++
				bound := 0
				for _, c := range w.claims {
					if c.Status.Phase == corev1.ClaimBound && completed(c) {
						bound++
					}
				}
				for _, v := range w.volumes {
					if (v.Status.Phase == corev1.VolumeBound) != (v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID != "") {
						t.Errorf("settled with volume %s in phase %s and reference %v", v.Name, v.Status.Phase, v.Spec.ClaimRef)
					}
				}
				if want := map[string]int{"more claims than volumes": 2, "two name the same volume": 1, "one is reserved": 1}[name]; bound != want {
					t.Errorf("settled with %d bound claims, not %d: %s", bound, want, w.key())
				}
			}
			if settled == 0 || len(seen) < 5 {
				t.Errorf("%d states, %d of them settled", len(seen), settled)
			}
		})
	}
}

func pendingVolume(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumePending }

// TestStaleViews lets several binders work on views of any age while users delete and make
// claims and the scheduler reserves volumes.
func TestStaleViews(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld([]*corev1.PersistentVolumeClaim{numbered(1), numbered(2)},
			[]*corev1.PersistentVolume{testVolume("a", "5Gi"), testVolume("b", "5Gi"), testVolume("c", "5Gi", refersTo("c3", ""))})
		past := []*world{w.clone()}
		made := 3
		claimName := rapid.SampledFrom([]string{"c1", "c2", "c3"})
		t.Repeat(map[string]func(*rapid.T){
			"bind": func(t *rapid.T) {
				view := past[len(past)-1-rapid.IntRange(0, min(6, len(past)-1)).Draw(t, "age")]
				objects := view.objects()
				if len(objects) == 0 {
					t.Skip()
				}
				w.step(view, rapid.SampledFrom(objects).Draw(t, "object"))
			},
			"delete claim": func(t *rapid.T) { delete(w.claims, claimName.Draw(t, "name")) },
			"make claim": func(t *rapid.T) {
				name := claimName.Draw(t, "name")
				if w.claims[name] != nil {
					t.Skip()
				}
				made++
				c := testClaim()
				c.Name, c.UID = name, uid(made)
				w.put(c)
			},
			"schedule": func(t *rapid.T) {
				view := past[len(past)-1-rapid.IntRange(0, min(6, len(past)-1)).Draw(t, "age")]
				c, v := view.claims[claimName.Draw(t, "name")], view.volumes[rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "volume")]
				if c == nil || v == nil || v.Spec.ClaimRef != nil || c.Spec.VolumeName != "" || w.volumes[v.Name].ResourceVersion != v.ResourceVersion {
					t.Skip()
				}
				reserved, _ := volume.Reserve(v, c)
				w.put(reserved)
			},
			"recycle by hand": func(t *rapid.T) {
				for _, v := range w.volumes {
					if v.Status.Phase == corev1.VolumeReleased {
						v = v.DeepCopy()
						v.Spec.ClaimRef = nil
						w.put(v)
						return
					}
				}
				t.Skip()
			},
			"": func(t *rapid.T) {
				if wrong := w.wrong(); wrong != "" {
					t.Fatal(wrong)
				}
				past = append(past, w.clone())
			},
		})
		for range 60 {
			for _, obj := range w.objects() {
				w.step(w.clone(), obj)
			}
		}
		for _, obj := range w.objects() {
			if w.step(w.clone(), obj) {
				t.Fatalf("%T %s never settles: %s", obj, obj.GetName(), w.key())
			}
		}
		if wrong := w.wrong(); wrong != "" {
			t.Fatal(wrong)
		}
	})
}
