package managedfields

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

const (
	fieldsV1 = "FieldsV1"
	// maxUpdaters is how many entries of plain writes an object has at most; what is beyond
	// goes into one. Both are Kubernetes'.
	maxUpdaters = 10
	ancient     = "ancient-changes"
)

//nolint:gochecknoglobals // a constant
var noFields = []byte("{}")

// update takes what has changed from everybody and gives what is there now to who. The
// entries are changed, their fields are not.
func (w *walk) update(entries []metav1.ManagedFieldsEntry, who metav1.ManagedFieldsEntry, now metav1.Time) ([]metav1.ManagedFieldsEntry, error) {
	who.FieldsType = fieldsV1
	gets, found := w.has(given), false
	kept := entries[:0]
	for _, entry := range entries {
		mine := sameOwner(&entry, &who)
		fields, err := w.fieldsOf(entry.FieldsV1.GetRawBytes(), mine)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(fields, noFields) {
			continue
		}
		if !bytes.Equal(fields, entry.FieldsV1.GetRawBytes()) {
			entry.FieldsV1 = fieldsOf(fields)
		}
		if mine && gets {
			entry.Time, found = &now, true
		}
		kept = append(kept, entry)
	}
	if gets && !found {
		who.FieldsV1, who.Time = fieldsOf(w.fields(given)), &now
		kept = append(kept, who)
	}
	if len(kept) == 0 {
		return nil, nil
	}
	kept, err := capped(kept)
	slices.SortFunc(kept, order)
	return kept, err
}

func fieldsOf(raw []byte) *metav1.FieldsV1 {
	fields := &metav1.FieldsV1{}
	fields.SetRawBytes(raw)
	return fields
}

// fieldsOf computes what an entry's manager owns after the write.
func (w *walk) fieldsOf(raw []byte, mine bool) ([]byte, error) {
	if len(w.nodes) == 0 {
		return raw, nil
	}
	p := probe{walk: w, raw: raw}
	if p.read() {
		switch {
		case !mine && p.shared == 0:
			return raw, nil
		case mine && p.lost == 0 && p.owned == w.count(given):
			return raw, nil
		}
	}
	fields, err := decode(raw)
	if err != nil {
		return nil, err
	}
	changed, err := decode(w.fields(taken))
	if err != nil {
		return nil, err
	}
	fields = fields.Difference(changed)
	if mine {
		gets, err := decode(w.fields(given))
		if err != nil {
			return nil, err
		}
		fields = gets.Union(fields)
	}
	return fields.ToJSON()
}

func (w *walk) count(changes change) int {
	n := 0
	for i := range w.nodes {
		if w.nodes[i].change&changes != 0 {
			n++
		}
	}
	return n
}

func decode(raw []byte) (*fieldpath.Set, error) {
	set := &fieldpath.Set{}
	if len(raw) == 0 {
		return set, nil
	}
	return set, set.FromJSON(bytes.NewReader(raw))
}

// order is that of entries: applies first, older ones first.
func order(a, b metav1.ManagedFieldsEntry) int {
	return cmp.Or(
		cmp.Compare(a.Operation, b.Operation), cmp.Compare(seconds(a.Time), seconds(b.Time)),
		cmp.Compare(a.Manager, b.Manager), cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource),
	)
}

func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// capped puts the oldest entries of plain writes together until there are not too many.
func capped(entries []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, error) {
	if len(entries) <= maxUpdaters {
		return entries, nil
	}
	var updaters []int
	bucket := -1
	for i := range entries {
		if e := &entries[i]; e.Operation == metav1.ManagedFieldsOperationUpdate {
			if updaters = append(updaters, i); e.Manager == ancient && e.Subresource == "" {
				bucket = i
			}
		}
	}
	surplus := len(updaters) - maxUpdaters
	if surplus <= 0 {
		return entries, nil
	}
	slices.SortFunc(updaters, func(i, j int) int {
		a, b := &entries[i], &entries[j]
		return cmp.Or(cmp.Compare(seconds(a.Time), seconds(b.Time)), cmp.Compare(identity(a), identity(b)))
	})
	if bucket < 0 {
		bucket = updaters[0]
		entries[bucket].Manager, entries[bucket].Subresource = ancient, ""
	}
	updaters = slices.DeleteFunc(updaters, func(i int) bool { return i == bucket })[:surplus]
	all, err := decode(entries[bucket].FieldsV1.GetRawBytes())
	if err != nil {
		return nil, err
	}
	for _, i := range updaters {
		fields, err := decode(entries[i].FieldsV1.GetRawBytes())
		if err != nil {
			return nil, err
		}
		all = fields.Union(all)
		entries[bucket].Time = entries[i].Time
	}
	raw, err := all.ToJSON()
	entries[bucket].FieldsV1 = fieldsOf(raw)
	kept := make([]metav1.ManagedFieldsEntry, 0, len(entries))
	for i := range entries {
		if !slices.Contains(updaters, i) {
			kept = append(kept, entries[i])
		}
	}
	return kept, err
}

// identity orders entries of the same second.
func identity(e *metav1.ManagedFieldsEntry) string {
	if e.Subresource == "" {
		return strconv.Quote(e.Manager) + "}"
	}
	return strconv.Quote(e.Manager) + "," + e.Subresource
}

// normal checks managedFields that a client wrote and writes them as the server does.
func normal(entries []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, error) {
	var out []metav1.ManagedFieldsEntry
	for _, entry := range entries {
		switch {
		case entry.Operation != metav1.ManagedFieldsOperationApply && entry.Operation != metav1.ManagedFieldsOperationUpdate:
			return nil, errors.New("operation must be Apply or Update")
		case entry.APIVersion == "":
			return nil, errors.New("apiVersion must not be empty")
		case entry.FieldsType != fieldsV1:
			return nil, errors.New("fieldsType must be FieldsV1")
		}
		fields, err := decode(entry.FieldsV1.GetRawBytes())
		if err != nil {
			return nil, err
		}
		raw, err := fields.ToJSON()
		if err != nil {
			return nil, err
		}
		entry.FieldsV1 = fieldsOf(raw)
		if at := slices.IndexFunc(out, func(e metav1.ManagedFieldsEntry) bool { return sameOwner(&e, &entry) }); at >= 0 {
			out[at] = entry
		} else {
			out = append(out, entry)
		}
	}
	return out, nil
}
