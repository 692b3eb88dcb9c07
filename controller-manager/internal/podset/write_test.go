package podset

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTransactionsAreBounded(t *testing.T) {
	small := Write{size: 2000}
	large := Write{size: mostBytes}
	for name, test := range map[string]struct {
		writes     []Write
		most, want int
	}{
		"all that there are":      {[]Write{small, small}, 250, 2},
		"no more than allowed":    {[]Write{small, small, small}, 2, 2},
		"one after a refusal":     {[]Write{small, small, small}, 1, 1},
		"no more bytes":           {[]Write{small, large, small}, 250, 1},
		"one that is large alone": {[]Write{large, large}, 250, 1},
	} {
		if got := fitting(test.writes, test.most); got != test.want {
			t.Errorf("%s: %d of them, not %d", name, got, test.want)
		}
	}
}

func TestNamesMeetNoOther(t *testing.T) {
	owner := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "u"}}
	free := func(string) bool { return false }
	first := Names(owner, "7", 3, free)
	if again := Names(owner, "7", 3, free); again[0] != first[0] || again[2] != first[2] {
		t.Errorf("%v, then %v", first, again)
	}
	if other := Names(owner, "8", 1, free); other[0] == first[0] {
		t.Errorf("%s again after something was seen", other[0])
	}
	// A pod of somebody else that has the name is gone round.
	if other := Names(owner, "7", 1, func(name string) bool { return name == first[0] }); other[0] != first[1] {
		t.Errorf("%v, not %s", other, first[1])
	}
}
