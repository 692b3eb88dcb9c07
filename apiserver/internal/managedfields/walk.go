package managedfields

import (
	"bytes"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// change is what became of a field.
type change uint8

const (
	added change = 1 << iota
	modified
	removed

	given = added | modified // what the writer owns now
	taken = given | removed  // what others own no longer
)

// node is a changed field, or one that holds changed fields. The nodes of a walk are in
// order, those below a node right after it.
type node struct {
	text     string // of fields: the key in FieldsV1
	from, to int32  // of others: where their key is in the walk's text
	end      int32  // of what is below
	change   change
}

// value is a part of an object.
type value struct {
	reflect.Value
	presence presence
}

type presence uint8

const (
	absent presence = iota
	null
	present
)

// walk compares two objects. It is used again, so that it allocates little.
type walk struct {
	nodes  []node
	text   []byte
	quoted []byte
	out    []byte   // FieldsV1 being written
	names  []string // keys of maps
	items  []item   // of lists
	keys   []keyValue
	// failed is true when an item has none of its keys.
	failed bool
}

// item is an item of a list that is being compared.
type item struct {
	index int32 // in the list
	key   int32 // where its key values begin
}

func (w *walk) reset() {
	w.nodes, w.text, w.names, w.items, w.keys, w.failed = w.nodes[:0], w.text[:0], w.names[:0], w.items[:0], w.keys[:0], false
}

// load looks at a Go value as the plan sees it.
func (p *plan) load(v reflect.Value) value {
	if p.pointer {
		if v.IsNil() {
			return value{presence: null}
		}
		v = v.Elem()
	}
	switch p.kind {
	case reflect.Slice, reflect.Map:
		if v.IsNil() {
			return value{presence: null}
		}
	case reflect.Struct:
		if p.time && timeOf(v).IsZero() {
			return value{presence: null}
		}
	}
	return value{v, present}
}

func (f *field) of(v reflect.Value) reflect.Value {
	if len(f.index) == 1 {
		return v.Field(f.index[0])
	}
	return v.FieldByIndex(f.index)
}

func (f *field) load(structure value) value {
	if structure.presence != present {
		return value{}
	}
	v := f.of(structure.Value)
	if f.omitted(v) {
		return value{}
	}
	return f.plan.load(v)
}

// omitted tells whether a field with this value is left out of JSON.
func (f *field) omitted(v reflect.Value) bool {
	switch f.omit {
	case never:
		return false
	case whenZero:
		if t := v.Type(); t == timeType || t == microTimeType {
			return timeOf(v).IsZero()
		}
		return v.IsZero()
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String:
		return v.Len() == 0
	case reflect.Pointer, reflect.Interface:
		return v.IsNil()
	}
	return v.IsZero()
}

// compare notes at node i how r differs from l. One of them may be absent.
func (w *walk) compare(p *plan, i int, l, r value) {
	content := false
	switch p.shape {
	case structure:
		content = w.structures(p, l, r)
	case mapping:
		content = w.mappings(p, l, r)
	case keyed, set:
		content = w.lists(p, l, r)
	}
	switch {
	case l.presence == absent:
		w.nodes[i].change |= added
	case r.presence == absent:
		w.nodes[i].change |= removed
	case content: // what is in it has been compared
	case l.presence != r.presence, p.shape == leaf && l.presence == present && !p.equal(l.Value, r.Value):
		w.nodes[i].change |= modified
	}
}

// below compares what is at a key below the current node. Name is the key's text; where it
// is empty, key writes it, which is called when there is something to note only.
func (w *walk) below(p *plan, text string, key func(to []byte) []byte, l, r value) {
	i := w.push(text)
	w.compare(p, i, l, r)
	w.settle(i, key)
}

func (w *walk) push(text string) int {
	w.nodes = append(w.nodes, node{text: text})
	return len(w.nodes) - 1
}

// settle completes node i, or drops it when there is nothing to note.
func (w *walk) settle(i int, key func(to []byte) []byte) {
	n := &w.nodes[i]
	if n.change == 0 && i == len(w.nodes)-1 {
		w.nodes = w.nodes[:i]
		return
	}
	n.end = int32(len(w.nodes))
	if n.text == "" {
		n.from = int32(len(w.text))
		w.text = key(w.text)
		n.to = int32(len(w.text))
	}
}

// structures tells whether either of two structures has a field.
func (w *walk) structures(p *plan, l, r value) bool {
	content := false
	for at := range p.fields {
		f := &p.fields[at]
		left, right := f.load(l), f.load(r)
		if left.presence == absent && right.presence == absent {
			continue
		}
		content = true
		w.below(f.plan, f.text, nil, left, right)
	}
	return content
}

// mappings tells whether either of two maps has an entry.
func (w *walk) mappings(p *plan, l, r value) bool {
	if length(l) == 0 && length(r) == 0 {
		return false
	}
	if l.presence == present && r.presence == present && sameStrings(l.Value, r.Value) {
		return true
	}
	base := len(w.names)
	w.names = appendKeys(w.names, l)
	w.names = appendKeys(w.names, r)
	slices.Sort(w.names[base:])
	for at := base; at < len(w.names); at++ {
		name := w.names[at]
		if at > base && name == w.names[at-1] {
			continue
		}
		var left, right value
		switch {
		case !p.elem.plain || l.presence == present && r.presence == present:
			left, right = p.entry(l, name), p.entry(r, name)
		case l.presence == present: // what is there is all there is to know
			left.presence = present
		default:
			right.presence = present
		}
		w.below(p.elem, "", func(to []byte) []byte { return appendField(to, name) }, left, right)
	}
	w.names = w.names[:base]
	return true
}

func length(v value) int {
	if v.presence != present {
		return 0
	}
	return v.Len()
}

// sameStrings is a quick look at the maps that every object has.
func sameStrings(l, r reflect.Value) bool {
	left, ok := l.Interface().(map[string]string)
	if !ok {
		return false
	}
	right := r.Interface().(map[string]string)
	if len(left) != len(right) {
		return false
	}
	for k, v := range left {
		if other, ok := right[k]; !ok || v != other {
			return false
		}
	}
	return true
}

func appendKeys(to []string, v value) []string {
	if v.presence != present {
		return to
	}
	switch m := v.Interface().(type) { // the usual ones, without an allocation for each key
	case map[string]string:
		for k := range m {
			to = append(to, k)
		}
	case map[string][]byte:
		for k := range m {
			to = append(to, k)
		}
	case corev1.ResourceList:
		for k := range m {
			to = append(to, string(k))
		}
	default:
		for entries := v.MapRange(); entries.Next(); {
			to = append(to, entries.Key().String())
		}
	}
	return to
}

// entry looks up an entry of a map.
func (p *plan) entry(m value, name string) value {
	if m.presence != present {
		return value{}
	}
	v := m.MapIndex(reflect.ValueOf(name).Convert(m.Type().Key()))
	if !v.IsValid() {
		return value{}
	}
	return p.elem.load(v)
}

// lists tells whether either of two lists has an item. Items are compared by their keys;
// ones that occur several times are owned together.
func (w *walk) lists(p *plan, l, r value) bool {
	if length(l) == 0 && length(r) == 0 {
		return false
	}
	firstItem, firstKey := len(w.items), len(w.keys)
	left := w.index(p, l)
	right := w.index(p, r)
	i, j := firstItem, firstItem+left
	lend, rend := j, j+right
	for i < lend || j < rend {
		order := 0
		switch {
		case i == lend:
			order = 1
		case j == rend:
			order = -1
		default:
			order = w.order(p, w.items[i], w.items[j])
		}
		inext, jnext := i, j
		if order <= 0 {
			inext = w.run(p, i, lend)
		}
		if order >= 0 {
			jnext = w.run(p, j, rend)
		}
		w.same(p, l, r, i, inext, j, jnext)
		i, j = inext, jnext
	}
	w.items, w.keys = w.items[:firstItem], w.keys[:firstKey]
	return true
}

// index puts a list's items in the order of their keys and returns their number.
func (w *walk) index(p *plan, list value) int {
	n, first := length(list), len(w.items)
	for i := range n {
		w.items = append(w.items, item{index: int32(i), key: int32(len(w.keys))})
		w.addKeys(p, list.Index(i))
	}
	items := w.items[first:]
	slices.SortStableFunc(items, func(a, b item) int { return w.order(p, a, b) })
	return n
}

func (w *walk) addKeys(p *plan, v reflect.Value) {
	if p.shape == set {
		w.keys = append(w.keys, keyOf(p.elem, p.elem.load(v)))
		return
	}
	item, found := p.elem.load(v), false
	for at := range p.keys {
		k := &p.keys[at]
		value := k.missing
		if v := k.field.load(item); v.presence != absent {
			value = keyOf(k.field.plan, v)
		}
		found = found || value.kind != noKey
		w.keys = append(w.keys, value)
	}
	w.failed = w.failed || !found
}

func keyOf(p *plan, v value) keyValue {
	if v.presence != present {
		return keyValue{kind: nullKey}
	}
	switch p.kind {
	case reflect.String:
		return keyValue{kind: textKey, text: v.String()}
	case reflect.Bool:
		if v.Bool() {
			return keyValue{kind: boolKey, number: 1}
		}
		return keyValue{kind: boolKey}
	}
	return keyValue{kind: numberKey, number: v.Int()}
}

// order compares items as their keys stand in FieldsV1: name by name, where a key that is
// missing lets the next one take its place.
func (w *walk) order(p *plan, a, b item) int {
	left, right := w.keysOf(p, a), w.keysOf(p, b)
	for at := range left {
		switch l, r := left[at].kind == noKey, right[at].kind == noKey; {
		case l && r:
		case l:
			return missingOrder(left[at:])
		case r:
			return -missingOrder(right[at:])
		default:
			if c := left[at].compare(right[at]); c != 0 {
				return c
			}
		}
	}
	return 0
}

func missingOrder(rest []keyValue) int {
	if slices.ContainsFunc(rest, func(k keyValue) bool { return k.kind != noKey }) {
		return 1
	}
	return -1
}

func (w *walk) keysOf(p *plan, it item) []keyValue {
	return w.keys[it.key : int(it.key)+max(1, len(p.keys))]
}

// run ends where the items that have the key of item i end.
func (w *walk) run(p *plan, i, end int) int {
	next := i + 1
	for next < end && w.order(p, w.items[i], w.items[next]) == 0 {
		next++
	}
	return next
}

// same compares the items of one key: those of l from i on with those of r from j on.
func (w *walk) same(p *plan, l, r value, i, iend, j, jend int) {
	first := w.items[min(i, len(w.items)-1)]
	if i == iend {
		first = w.items[j]
	}
	at := w.push("")
	many, few := iend-i, jend-j
	load := func(list value, from, to int) value {
		if from == to {
			return value{}
		}
		return p.elem.load(list.Index(int(w.items[from].index)))
	}
	switch {
	case many <= 1 && few <= 1:
		w.compare(p.elem, at, load(l, i, iend), load(r, j, jend))
	case many > 1 && few > 1:
		if !w.sameRuns(p, l, r, i, iend, j, jend) {
			w.nodes[at].change |= modified
		}
	case many > 1:
		if few > 0 {
			w.compare(p.elem, at, value{}, load(r, j, jend))
		}
		w.nodes[at].change |= removed
	default:
		if many > 0 {
			w.compare(p.elem, at, load(l, i, iend), value{})
		}
		w.nodes[at].change |= added
	}
	w.settle(at, func(to []byte) []byte { return w.appendKey(to, p, first) })
}

// sameRuns compares items that have one key as a whole, in their order.
func (w *walk) sameRuns(p *plan, l, r value, i, iend, j, jend int) bool {
	if iend-i != jend-j {
		return false
	}
	for n := range iend - i {
		if !p.equal(l.Index(int(w.items[i+n].index)), r.Index(int(w.items[j+n].index))) {
			return false
		}
	}
	return true
}

// appendKey writes the key of a list's item.
func (w *walk) appendKey(to []byte, p *plan, it item) []byte {
	values := w.keysOf(p, it)
	if p.shape == set {
		w.quoted = values[0].append(append(w.quoted[:0], "v:"...))
		return append(appendString(to, w.quoted, false), ':')
	}
	w.quoted = append(w.quoted[:0], "k:{"...)
	for at, v := range values {
		if v.kind == noKey {
			continue
		}
		if w.quoted[len(w.quoted)-1] != '{' {
			w.quoted = append(w.quoted, ',')
		}
		w.quoted = append(appendString(w.quoted, p.keys[at].name, false), ':')
		w.quoted = v.append(w.quoted)
	}
	w.quoted = append(w.quoted, '}')
	return append(appendString(to, w.quoted, false), ':')
}

// has tells whether anything has changed in one of the ways.
func (w *walk) has(changes change) bool {
	return slices.ContainsFunc(w.nodes, func(n node) bool { return n.change&changes != 0 })
}

// fields writes the fields that have changed in one of the ways, as FieldsV1.
func (w *walk) fields(changes change) []byte {
	w.out = w.appendNodes(append(w.out[:0], '{'), 0, int32(len(w.nodes)), changes)
	return bytes.Clone(w.out)
}

// appendNodes writes the nodes of one level and the closing brace.
func (w *walk) appendNodes(to []byte, i, end int32, changes change) []byte {
	for i < end {
		n := &w.nodes[i]
		start := len(to)
		if to[start-1] != '{' {
			to = append(to, ',')
		}
		if n.text != "" {
			to = append(to, n.text...)
		} else {
			to = append(to, w.text[n.from:n.to]...)
		}
		to = append(to, '{')
		inner := len(to)
		member := n.change&changes != 0
		if member && n.end > i+1 {
			to = append(to, `".":{}`...)
		}
		self := len(to)
		to = w.appendNodes(to, i+1, n.end, changes)
		if len(to) == self+1 { // nothing below
			if !member {
				to = to[:start]
			} else {
				to = append(to[:inner], '}')
			}
		}
		i = n.end
	}
	return append(to, '}')
}

// isKey tells whether a node has this key, without an allocation.
func (w *walk) isKey(n *node, key []byte) bool {
	if n.text != "" {
		return n.text == string(key)
	}
	return string(w.text[n.from:n.to]) == string(key)
}
