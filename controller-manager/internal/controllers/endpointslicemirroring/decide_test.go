package endpointslicemirroring

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/controller-manager/internal/portset"
)

type subset = corev1.EndpointSubset //nolint:staticcheck // clients still have it

func addresses(ips ...string) []address {
	var out []address
	for _, ip := range ips {
		out = append(out, address{IP: ip})
	}
	return out
}

func endpointsOf(subsets ...subset) *endpointsObject {
	return &endpointsObject{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "db", UID: "u", Labels: map[string]string{"app": "db"}}, Subsets: subsets}
}

func TestWhatIsMirrored(t *testing.T) {
	plain, selecting := &corev1.Service{}, &corev1.Service{Spec: corev1.ServiceSpec{Selector: map[string]string{"a": "b"}}}
	made := func(change func(*endpointsObject)) *endpointsObject {
		e := endpointsOf(subset{Addresses: addresses("192.0.2.1")})
		if change != nil {
			change(e)
		}
		return e
	}
	now := metav1.Now()
	for name, test := range map[string]struct {
		endpoints *endpointsObject
		service   *corev1.Service
		mirrored  bool
	}{
		"of a service without selector": {made(nil), plain, true},
		"of a service with one":         {made(nil), selecting, false},
		"of no service":                 {made(nil), nil, false},
		"not to be mirrored":            {made(func(e *endpointsObject) { e.Labels[discoveryv1.LabelSkipMirror] = "true" }), plain, false},
		"an election's":                 {made(func(e *endpointsObject) { e.Annotations = map[string]string{leaderAnnotation: "{}"} }), plain, false},
		"on their way out":              {made(func(e *endpointsObject) { e.DeletionTimestamp = &now }), plain, false},
	} {
		p := decide(test.endpoints, test.service, nil)
		if (len(p.create) == 1) != test.mirrored {
			t.Errorf("%s: created %v", name, p.create)
		}
		// What was mirrored before goes when it is no longer to be.
		before := decide(made(nil), plain, nil).create
		if p := decide(test.endpoints, test.service, before); (len(p.remove) == 0) != test.mirrored || len(p.create) > 0 {
			t.Errorf("%s: removed %v", name, p.remove)
		}
	}
}

func TestSlicesSayWhatEndpointsSay(t *testing.T) {
	e := endpointsOf(
		subset{Addresses: addresses("192.0.2.1", "fd00::1"), NotReadyAddresses: addresses("192.0.2.2"), Ports: []port{{Name: "sql", Port: 5432, Protocol: "TCP"}}},
		subset{Addresses: addresses("192.0.2.3"), Ports: []port{{Name: "sql", Port: 5433, Protocol: "TCP"}}},
	)
	e.Annotations = map[string]string{"own": "1", corev1.LastAppliedConfigAnnotation: "{}", corev1.EndpointsLastChangeTriggerTime: "x"}
	p := decide(e, &corev1.Service{}, nil)
	have := map[string]string{}
	for _, slice := range p.create {
		key := portset.Key(slice.AddressType, slice.Ports)
		for _, one := range slice.Endpoints {
			have[key] += fmt.Sprint(one.Addresses[0], *one.Conditions.Ready, " ")
		}
		if slice.Labels["app"] != "db" || slice.Labels[discoveryv1.LabelServiceName] != "db" || slice.Labels[discoveryv1.LabelManagedBy] != managedBy {
			t.Errorf("labels %v", slice.Labels)
		}
		if len(slice.Annotations) != 1 || slice.Annotations["own"] != "1" {
			t.Errorf("annotations %v", slice.Annotations)
		}
	}
	want := map[string]string{
		"sql/TCP/5432/":      "192.0.2.1true 192.0.2.2false ",
		"IPv6 sql/TCP/5432/": "fd00::1true ",
		"sql/TCP/5433/":      "192.0.2.3true ",
	}
	if fmt.Sprint(have) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", have, want)
	}
	if again := decide(e, &corev1.Service{}, p.create); len(again.create)+len(again.update)+len(again.remove) > 0 {
		t.Errorf("decided again: %+v", again)
	}
	e.Subsets[1].Addresses = addresses("192.0.2.4")
	if changed := decide(e, &corev1.Service{}, p.create); len(changed.update) != 1 || len(changed.create)+len(changed.remove) > 0 {
		t.Errorf("one address changes %d, makes %d, removes %d", len(changed.update), len(changed.create), len(changed.remove))
	}
}

func TestSubsetsAreBounded(t *testing.T) {
	var ready, unready []address
	for i := range 700 {
		ready = append(ready, address{IP: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)})
		unready = append(unready, address{IP: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)})
	}
	p := decide(endpointsOf(subset{Addresses: ready, NotReadyAddresses: unready}), &corev1.Service{}, nil)
	n := 0
	for _, e := range p.create[0].Endpoints {
		if *e.Conditions.Ready {
			n++
		}
	}
	if len(p.create) != 1 || len(p.create[0].Endpoints) != 1000 || n != 700 {
		t.Errorf("%d endpoints, %d of them ready", len(p.create[0].Endpoints), n)
	}
}
