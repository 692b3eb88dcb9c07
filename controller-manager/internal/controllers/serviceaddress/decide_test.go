package serviceaddress

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func service(name string, created int64, ip string, nodePorts ...int32) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name), CreationTimestamp: metav1.Unix(created, 0)},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}},
	}
	for _, port := range nodePorts {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{NodePort: port})
	}
	return svc
}

func TestProblemsOfAddresses(t *testing.T) {
	r := ranges{netip.MustParsePrefix("10.96.0.0/16"), 30000, 32767}
	for name, test := range map[string]struct {
		svc    *corev1.Service
		others []*corev1.Service
		want   []string
	}{
		"all is well":              {service("s", 5, "10.96.0.10", 30001), []*corev1.Service{service("o", 1, "10.96.0.11", 30002)}, nil},
		"headless":                 {service("s", 5, "None"), nil, nil},
		"none yet":                 {service("s", 5, ""), nil, nil},
		"outside":                  {service("s", 5, "10.97.0.10", 20000), nil, []string{"ClusterIPOutOfRange", "PortOutOfRange"}},
		"no address":               {service("s", 5, "x"), nil, []string{"ClusterIPNotValid"}},
		"an older one has it":      {service("s", 5, "10.96.0.10", 30001), []*corev1.Service{service("o", 1, "10.96.0.10", 30001)}, []string{"ClusterIPAlreadyAllocated", "PortAlreadyAllocated"}},
		"it is the older one":      {service("s", 5, "10.96.0.10", 30001), []*corev1.Service{service("o", 9, "10.96.0.10", 30001)}, nil},
		"equally old, by name":     {service("s", 5, "10.96.0.10"), []*corev1.Service{service("r", 5, "10.96.0.10"), service("t", 5, "10.96.0.10")}, []string{"ClusterIPAlreadyAllocated"}},
		"two protocols of its own": {service("s", 5, "10.96.0.10", 30001, 30001), []*corev1.Service{service("s", 5, "10.96.0.10", 30001, 30001)}, nil},
	} {
		var have []string
		for _, p := range decide(test.svc, test.others, r) {
			have = append(have, p.reason)
		}
		if !slices.Equal(have, test.want) {
			t.Errorf("%s: %v, want %v", name, have, test.want)
		}
	}
}
