package managedfields

import (
	"math/rand/v2"
	"testing"

	smdvalue "sigs.k8s.io/structured-merge-diff/v6/value"
)

// Items whose keys are there in part have the order of structured-merge-diff.
func TestOrderOfItems(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	p := &plan{shape: keyed, keys: []key{{name: "a"}, {name: "b"}, {name: "c"}}}
	draw := func(w *walk) (item, smdvalue.FieldList) {
		it, list := item{key: int32(len(w.keys))}, smdvalue.FieldList{}
		for _, k := range p.keys {
			var v keyValue
			var raw any
			switch random.IntN(5) {
			case 0:
			case 1:
				v, raw = keyValue{kind: numberKey, number: 2}, int64(2)
			case 2:
				v, raw = keyValue{kind: numberKey, number: 10}, int64(10)
			case 3:
				v, raw = keyValue{kind: textKey, text: "10"}, "10"
			case 4:
				v, raw = keyValue{kind: boolKey, number: 1}, true
			}
			if w.keys = append(w.keys, v); raw != nil {
				list = append(list, smdvalue.Field{Name: k.name, Value: smdvalue.NewValueInterface(raw)})
			}
		}
		return it, list
	}
	sign := func(n int) int { return min(1, max(-1, n)) }
	for range 20_000 {
		w := &walk{}
		a, left := draw(w)
		b, right := draw(w)
		if got, want := sign(w.order(p, a, b)), sign(left.Compare(right)); got != want {
			t.Fatalf("order of %v and %v is %d, want %d", left, right, got, want)
		}
	}
}
