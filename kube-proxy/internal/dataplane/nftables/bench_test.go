package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kube-proxy/internal/dataplane"
	"kijabi.dev/kube-proxy/internal/dataplane/dataplanetest"
	"kijabi.dev/kube-proxy/internal/services"
)

// benchWorld is a full update with n services of two endpoints, and a plane in a
// namespace of its own.
func benchWorld(b *testing.B, n int) (*Plane, dataplane.Update) {
	b.Helper()
	var p *Plane
	m := dataplanetest.NewMachine(b, "bench")
	err := m.Do(func() error {
		var err error
		p, err = New(Config{
			PodCIDR: netip.MustParsePrefix(dataplanetest.PodCIDR), ServiceCIDR: netip.MustParsePrefix(dataplanetest.ServiceCIDR), Log: zap.NewNop(),
		})
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	u := dataplane.Update{Full: true, Services: map[types.NamespacedName][]services.Frontend{}}
	for i := range n {
		u.Services[dataplanetest.Service(fmt.Sprint(i))] = []services.Frontend{benchFrontend(i, 2)}
	}
	return p, u
}

func benchFrontend(i, endpoints int) services.Frontend {
	var targets []string
	for e := range endpoints {
		targets = append(targets, fmt.Sprintf("10.244.%d.%d:8080", 1+(i+e)%200, 2+i%250))
	}
	return dataplanetest.Frontend(fmt.Sprintf("10.96.%d.%d:80", 1+i/250, 1+i%250), services.TCP, targets...)
}

func BenchmarkInstall(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, u := benchWorld(b, n)
			for b.Loop() {
				p.mu.Lock()
				p.broken = true // makes every round build the whole table
				p.mu.Unlock()
				if err := p.Sync(u); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkChange changes one service among many: one endpoint replaced, which keeps
// the slot count, and a scale-up and back, which does not.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		for name, other := range map[string]services.Frontend{"replace": benchFrontend(7, 2), "scale": benchFrontend(0, 3)} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				p, u := benchWorld(b, n)
				if err := p.Sync(u); err != nil {
					b.Fatal(err)
				}
				other.Front = benchFrontend(0, 0).Front
				key := dataplanetest.Service("0")
				var took []time.Duration
				for i := 0; b.Loop(); i++ {
					f := benchFrontend(0, 2)
					if i%2 == 0 {
						f = other
					}
					begin := time.Now()
					err := p.Sync(dataplane.Update{Services: map[types.NamespacedName][]services.Frontend{key: {f}}})
					took = append(took, time.Since(begin))
					if err != nil {
						b.Fatal(err)
					}
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			})
		}
	}
}

// BenchmarkVerify is what a foreign nf_tables commit costs.
func BenchmarkVerify(b *testing.B) {
	p, u := benchWorld(b, 10000)
	if err := p.Sync(u); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if same, err := p.verifyElements(); err != nil || !same {
			b.Fatal(same, err)
		}
	}
}
