package pace

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestHold(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Unix(1_790_000_000, 0))
	p := New(clk)
	if d := p.Hold("a"); d != 0 {
		t.Errorf("the first waits %s", d)
	}
	clk.SetTime(clk.Now().Add(20 * time.Millisecond))
	if d := p.Hold("a"); d != 30*time.Millisecond {
		t.Errorf("the second waits %s, not 30ms", d)
	}
	if d := p.Hold("b"); d != 0 {
		t.Errorf("another's waits %s", d)
	}
	clk.SetTime(clk.Now().Add(30 * time.Millisecond))
	if d := p.Hold("a"); d != 0 {
		t.Errorf("it waits %s more", d)
	}
}

func TestManyAreForgotten(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Unix(1_790_000_000, 0))
	p := New(clk)
	for i := range forgetAt {
		p.Hold(types.UID(fmt.Sprint(i)))
	}
	clk.SetTime(clk.Now().Add(time.Second))
	p.Hold("one more")
	if len(p.last) != 1 {
		t.Errorf("%d are remembered", len(p.last))
	}
}
