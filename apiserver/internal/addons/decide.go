package addons

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// modeLabel says what is done about an object. It counts in the file and on the object itself. With any
// other value than those below, "Reconcile", say, or without the label, the object is made what the file
// says, and removed when it is no longer in one.
const (
	modeLabel = "addons.kijabi.dev/mode"
	// modeEnsureExists: it is made if it is not there; what becomes of it is its users' matter.
	modeEnsureExists = "EnsureExists"
	// modeIgnored: nothing is done.
	modeIgnored = "Ignored"
)

// item names an object in the inventory.
type item struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (i item) gvk() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: i.Group, Version: i.Version, Kind: i.Kind}
}

// same tells whether two items name one object, in whatever version.
func (i item) same(o item) bool {
	i.Version, o.Version = "", ""
	return i == o
}

func itemOf(obj *unstructured.Unstructured) item {
	gvk := obj.GroupVersionKind()
	return item{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// entry is what the inventory holds of a file.
type entry struct {
	// Masters that have the file.
	Masters []string `json:"masters"`
	// Objects that are removed when the file is gone from all of them.
	Objects []item `json:"objects,omitempty"`
	// Error of the last attempt; empty if all is well.
	Error string `json:"error,omitempty"`
}

// work is an object to be applied.
type work struct {
	file string
	obj  *unstructured.Unstructured
	// exists: only if it is not there.
	exists bool
}

// plan is what is to be done.
type plan struct {
	apply []work
	prune []item
	after map[string]entry
}

// decide compares the files of a master with the inventory. masters are all that there are. A
// file that other masters have stays what it was; one that cannot be read completely removes
// nothing. It is pure.
func decide(self string, masters []string, files []file, before map[string]entry) plan {
	p := plan{after: map[string]entry{}}
	var wanted []item
	present := map[string]bool{}
	for _, f := range files {
		present[f.name] = true
		after := entry{Masters: living(before[f.name].Masters, masters, self, true)}
		if f.err != nil {
			after.Error = f.err.Error()
			after.Objects = before[f.name].Objects
		}
		for _, obj := range f.objects {
			mode := obj.GetLabels()[modeLabel]
			if mode == modeIgnored {
				continue
			}
			p.apply = append(p.apply, work{file: f.name, obj: obj, exists: mode == modeEnsureExists})
			if one := itemOf(obj); mode != modeEnsureExists && !slices.ContainsFunc(after.Objects, one.same) {
				after.Objects = append(after.Objects, one)
			}
		}
		wanted = append(wanted, after.Objects...)
		p.after[f.name] = after
	}
	for name, known := range before {
		if present[name] {
			continue
		}
		if known.Masters = living(known.Masters, masters, self, false); len(known.Masters) > 0 {
			p.after[name] = known
			wanted = append(wanted, known.Objects...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		for _, one := range before[name].Objects {
			if !slices.ContainsFunc(wanted, one.same) && !slices.ContainsFunc(p.prune, one.same) {
				p.prune = append(p.prune, one)
			}
		}
	}
	slices.Reverse(p.prune) // what was applied first is removed last
	return p
}

// living are those of the masters that have a file and are there; self has it or not.
func living(have, masters []string, self string, has bool) []string {
	var out []string
	for _, name := range have {
		if name != self && slices.Contains(masters, name) {
			out = append(out, name)
		}
	}
	if has {
		out = append(out, self)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
