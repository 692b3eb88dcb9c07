package store

import (
	"cmp"
	"slices"
	"strings"
)

// Attributes are names with their values, in the order of names. They take a fraction of a
// map's memory, of which every object has two. They are labels.Labels, so that selectors
// match them as they are. Nobody changes them.
type Attributes []Attribute

// Attribute is a name with its value.
type Attribute struct{ Name, Value string }

// AttributesOf copies a map.
func AttributesOf(values map[string]string) Attributes {
	if len(values) == 0 {
		return nil
	}
	a := make(Attributes, 0, len(values))
	for name, value := range values {
		a = append(a, Attribute{name, value})
	}
	slices.SortFunc(a, func(x, y Attribute) int { return cmp.Compare(x.Name, y.Name) })
	return a
}

// Lookup returns a name's value and whether there is one.
func (a Attributes) Lookup(name string) (value string, ok bool) {
	for i := range a { // they are few
		switch c := strings.Compare(a[i].Name, name); {
		case c == 0:
			return a[i].Value, true
		case c > 0:
			return "", false
		}
	}
	return "", false
}

// Get returns a name's value, empty if there is none.
func (a Attributes) Get(name string) string {
	value, _ := a.Lookup(name)
	return value
}

// Has tells whether a name has a value.
func (a Attributes) Has(name string) bool {
	_, ok := a.Lookup(name)
	return ok
}
