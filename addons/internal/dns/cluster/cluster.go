// Package cluster keeps the services and endpoint slices that the DNS answers from,
// by informers that fall back on files of the last known state.
package cluster

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kijabi.dev/addons/internal/dns/records"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// Names of the indexes.
const (
	byNamespace = "namespace"
	byService   = "service"
	byAddress   = "address"
)

// Cluster implements records.Source.
type Cluster struct {
	services *informer.Informer[*corev1.Service]
	slices   *informer.Informer[*discoveryv1.EndpointSlice]
}

var _ records.Source = (*Cluster)(nil)

// New adds the informers to set; snapshot says where one keeps its last known state.
func New(set *informer.Set, snapshot func(name string) informer.Option) *Cluster {
	return &Cluster{
		services: informer.Of[*corev1.Service](set,
			snapshot("services"),
			informer.Index(byNamespace, func(s *corev1.Service) []string { return []string{s.Namespace} }),
			informer.Index(byAddress, func(s *corev1.Service) []string { return spell(s.Spec.ClusterIPs) }),
		),
		slices: informer.Of[*discoveryv1.EndpointSlice](set,
			snapshot("endpointslices"),
			informer.Index(byService, func(s *discoveryv1.EndpointSlice) []string {
				return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}
			}),
			informer.Index(byAddress, func(s *discoveryv1.EndpointSlice) []string {
				var all []string
				for i := range s.Endpoints {
					all = append(all, spell(s.Endpoints[i].Addresses)...)
				}
				return all
			}),
		),
	}
}

// spell brings addresses into the one spelling they are looked up by.
func spell(texts []string) []string {
	var list []string
	for _, text := range texts {
		if address, err := netip.ParseAddr(text); err == nil {
			list = append(list, address.Unmap().String())
		}
	}
	return list
}

// Service implements records.Source.
func (c *Cluster) Service(namespace, name string) (*corev1.Service, bool) {
	service, err := c.services.Get(object.Key{Namespace: namespace, Name: name})
	return service, err == nil // a Reader knows no error but NotFound
}

// Slices implements records.Source.
func (c *Cluster) Slices(namespace, service string) []*discoveryv1.EndpointSlice {
	return c.slices.ByIndex(byService, namespace+"/"+service)
}

// HasNamespace implements records.Source.
func (c *Cluster) HasNamespace(namespace string) bool {
	return len(c.services.ByIndex(byNamespace, namespace)) > 0
}

// ServicesAt implements records.Source.
func (c *Cluster) ServicesAt(address string) []*corev1.Service {
	return c.services.ByIndex(byAddress, address)
}

// SlicesAt implements records.Source.
func (c *Cluster) SlicesAt(address string) []*discoveryv1.EndpointSlice {
	return c.slices.ByIndex(byAddress, address)
}
