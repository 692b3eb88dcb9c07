package masters

import (
	"testing"
	"time"
)

func TestOutlived(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	samples := []sample{{at(10), 1}, {at(20), 5}, {at(30), 5}, {at(40), 9}}
	for _, test := range []struct {
		before   int
		kept     int
		revision int64
	}{{9, 4, 0}, {10, 4, 1}, {29, 3, 5}, {30, 2, 5}, {100, 1, 9}} {
		kept, revision := outlived(samples, at(test.before))
		if len(kept) != test.kept || revision != test.revision {
			t.Errorf("before %d: %d kept, revision %d, want %+v", test.before, len(kept), revision, test)
		}
	}
	if kept, revision := outlived(nil, at(1)); len(kept) > 0 || revision != 0 {
		t.Errorf("of nothing: %v %d", kept, revision)
	}
}
