package addons

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// manifest is a file with objects that are written "kind/name", or "kind/name=mode".
func manifest(t *testing.T, name string, objects ...string) file {
	t.Helper()
	var documents []string
	for _, text := range objects {
		text, mode, _ := strings.Cut(text, "=")
		kind, called, _ := strings.Cut(text, "/")
		documents = append(documents, fmt.Sprintf("{apiVersion: v1, kind: %s, metadata: {name: %s, namespace: a, labels: {addons.kijabi.dev/mode: %q}}}", kind, called, mode))
	}
	parsed, err := parse([]byte(strings.Join(documents, "\n---\n")))
	if err != nil {
		t.Fatal(err)
	}
	return file{name: name, objects: parsed}
}

func TestPlans(t *testing.T) {
	known := func(masters []string, names ...string) entry {
		e := entry{Masters: masters}
		for _, name := range names {
			e.Objects = append(e.Objects, item{Version: "v1", Kind: "ConfigMap", Namespace: "a", Name: name})
		}
		return e
	}
	m1, both := []string{"m1"}, []string{"m1", "m2"}
	broken := manifest(t, "f.yaml", "ConfigMap/one")
	broken.err = fmt.Errorf("line 9")
	for name, test := range map[string]struct {
		files        []file
		before       map[string]entry
		apply, prune []string
		masters      map[string][]string // afterwards, by file
	}{
		"nothing":                             {nil, nil, nil, nil, nil},
		"a new file":                          {[]file{manifest(t, "f.yaml", "ConfigMap/one", "ConfigMap/two")}, nil, []string{"one", "two"}, nil, map[string][]string{"f.yaml": m1}},
		"an object leaves":                    {[]file{manifest(t, "f.yaml", "ConfigMap/one")}, map[string]entry{"f.yaml": known(m1, "one", "two")}, []string{"one"}, []string{"two"}, map[string][]string{"f.yaml": m1}},
		"the file leaves":                     {nil, map[string]entry{"f.yaml": known(m1, "one", "two")}, nil, []string{"two", "one"}, nil},
		"another master has the file":         {nil, map[string]entry{"f.yaml": known(both, "one")}, nil, nil, map[string][]string{"f.yaml": {"m2"}}},
		"another, which is gone, had it":      {nil, map[string]entry{"f.yaml": known([]string{"gone", "m1"}, "one")}, nil, []string{"one"}, nil},
		"it moves to another file":            {[]file{manifest(t, "g.yaml", "ConfigMap/one")}, map[string]entry{"f.yaml": known(m1, "one")}, []string{"one"}, nil, map[string][]string{"g.yaml": m1}},
		"a file that cannot be read whole":    {[]file{broken}, map[string]entry{"f.yaml": known(m1, "one", "two")}, []string{"one"}, nil, map[string][]string{"f.yaml": m1}},
		"ignored":                             {[]file{manifest(t, "f.yaml", "ConfigMap/one=Ignored")}, nil, nil, nil, map[string][]string{"f.yaml": m1}},
		"made once":                           {[]file{manifest(t, "f.yaml", "ConfigMap/one=EnsureExists")}, nil, []string{"one (once)"}, nil, map[string][]string{"f.yaml": m1}},
		"the second master has the file, too": {[]file{manifest(t, "f.yaml", "ConfigMap/one")}, map[string]entry{"f.yaml": known([]string{"m2"}, "one")}, []string{"one"}, nil, map[string][]string{"f.yaml": both}},
	} {
		t.Run(name, func(t *testing.T) {
			p := decide("m1", both, test.files, test.before)
			var apply, prune []string
			for _, w := range p.apply {
				text := w.obj.GetName()
				if w.exists {
					text += " (once)"
				}
				apply = append(apply, text)
			}
			for _, one := range p.prune {
				prune = append(prune, one.Name)
			}
			if !slices.Equal(apply, test.apply) || !slices.Equal(prune, test.prune) {
				t.Errorf("applies %v and removes %v, want %v and %v", apply, prune, test.apply, test.prune)
			}
			if len(p.after) != len(test.masters) {
				t.Errorf("inventory %v", p.after)
			}
			for file, want := range test.masters {
				if !slices.Equal(p.after[file].Masters, want) {
					t.Errorf("masters of %s: %v, want %v", file, p.after[file].Masters, want)
				}
			}
		})
	}
	if p := decide("m1", both, []file{broken}, map[string]entry{"f.yaml": known(m1, "two")}); p.after["f.yaml"].Error != "line 9" || len(p.after["f.yaml"].Objects) != 2 {
		t.Errorf("a file that cannot be read whole is noted as %+v", p.after)
	}
}
