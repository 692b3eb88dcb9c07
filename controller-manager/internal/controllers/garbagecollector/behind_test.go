package garbagecollector

import (
	"errors"
	"fmt"
	"testing"

	"kijabi.dev/platform/kube/object"
)

func TestPatience(t *testing.T) {
	var p patience
	key, behind, boom := object.Key{Name: "a"}, fmt.Errorf("%w: pods", errBehind), errors.New("boom")
	for round := range 2 {
		for try := 1; try < cacheTries; try++ {
			if again, err := p.after(key, behind); again != cacheRetry || err != nil {
				t.Fatalf("round %d, try %d: %s, %v", round, try, again, err)
			}
		}
		if _, err := p.after(key, behind); !errors.Is(err, errBehind) {
			t.Errorf("round %d: a cache that stays behind is told as %v", round, err)
		}
	}
	if again, _ := p.after(key, behind); again != cacheRetry {
		t.Error("no patience")
	}
	for _, err := range []error{boom, nil} {
		if again, have := p.after(key, err); again != 0 || !errors.Is(have, err) {
			t.Errorf("%v is told as %v", err, have)
		}
	}
	if len(p.tries) != 0 {
		t.Errorf("it remembers %v", p.tries)
	}
}
