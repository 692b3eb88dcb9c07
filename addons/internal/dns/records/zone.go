// Package records decides what the cluster's DNS answers, after the Kubernetes
// DNS-based service discovery specification, version 1.1.0. It is pure: services
// and endpoint slices in, resource records out. Nothing here knows of sockets,
// caches or CoreDNS.
package records

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/miekg/dns"
)

// Version of the specification, served as the TXT record of dns-version.
const Version = "1.1.0"

// TTL of every record, in seconds. Short, because endpoints move.
const TTL = 5

// Source is what the cluster holds now. Implementations are safe for concurrent
// use; the objects are shared and must not be changed.
type Source interface {
	// Service returns one service.
	Service(namespace, name string) (*corev1.Service, bool)
	// Slices returns the endpoint slices of a service.
	Slices(namespace, service string) []*discoveryv1.EndpointSlice
	// HasNamespace says whether a namespace holds any service.
	HasNamespace(namespace string) bool
	// ServicesAt returns the services with this cluster IP, in Go's spelling of it.
	ServicesAt(address string) []*corev1.Service
	// SlicesAt returns the endpoint slices with an endpoint of this address.
	SlicesAt(address string) []*discoveryv1.EndpointSlice
}

// Config describes the zones served.
type Config struct {
	// Domain of the cluster, such as cluster.local. Required.
	Domain string
	// Server is the address of the DNS itself. Required.
	Server netip.Addr
	// Ranges of services and pods: their reverse names are answered here, never upstream.
	Ranges []netip.Prefix
}

// Zone answers for the cluster's domain and the reverse names of its ranges.
// It is immutable.
type Zone struct {
	domain string // lower case, with the trailing dot
	server netip.Addr
	ranges []netip.Prefix
}

// NewZone returns the zone of cfg.
func NewZone(cfg Config) *Zone {
	return &Zone{
		domain: strings.ToLower(dns.Fqdn(cfg.Domain)),
		server: cfg.Server,
		ranges: cfg.Ranges,
	}
}

// Answer is what to tell a client, short of following Alias.
type Answer struct {
	// Rcode is dns.RcodeSuccess or dns.RcodeNameError. Success without records
	// means that the name exists, but holds nothing of the type asked for.
	Rcode int
	// Records answer the question, in a stable order.
	Records []dns.RR
	// Extra holds the addresses of the targets of SRV records.
	Extra []dns.RR
	// Authority is the SOA record of the zone the name is in; it goes into negative answers.
	Authority dns.RR
	// Alias is set when Records is a CNAME whose target the client wants resolved.
	Alias string
}

// Owns says whether name is answered here. Names are matched in any letter case.
func (z *Zone) Owns(source Source, name string) bool {
	name = strings.ToLower(name)
	if dns.IsSubDomain(z.domain, name) {
		return true
	}
	address, ok := reverseAddress(name)
	if !ok {
		return false
	}
	// Endpoints of headless services may lie anywhere, on a node's network for one.
	return z.rangeOf(address).IsValid() || len(z.pointers(source, address)) > 0
}

// Answer answers a question for a name that the zone owns.
func (z *Zone) Answer(source Source, name string, qtype uint16) Answer {
	lower := strings.ToLower(name)
	if !dns.IsSubDomain(z.domain, lower) {
		return z.reverse(source, name, lower, qtype)
	}
	answer := z.forward(source, question{name: name, qtype: qtype}, z.labels(lower))
	answer.Authority = soa(z.domain, z.domain)
	return answer
}

// question is what was asked; name keeps the client's letter case, because the
// records of an answer repeat it.
type question struct {
	name  string
	qtype uint16
}

// labels returns the labels of name left of the zone's domain.
func (z *Zone) labels(name string) []string {
	if name == z.domain {
		return nil
	}
	return dns.SplitDomainName(strings.TrimSuffix(name, "."+z.domain))
}

func (z *Zone) forward(source Source, q question, labels []string) Answer {
	switch n := len(labels); {
	case n == 0:
		return z.apex(q)
	case labels[n-1] == "svc":
		return z.service(source, q, labels[:n-1])
	case labels[n-1] == "pod":
		return pod(q, labels[:n-1])
	case n == 1 && labels[0] == "dns-version":
		return filter(q, &dns.TXT{Hdr: header(q.name, dns.TypeTXT), Txt: []string{Version}})
	case n == 1 && labels[0] == "dns":
		return empty()
	case n == 2 && labels[0] == "ns" && labels[1] == "dns":
		return addresses(q, []netip.Addr{z.server})
	default:
		return missing()
	}
}

func (z *Zone) apex(q question) Answer {
	switch q.qtype {
	case dns.TypeSOA:
		return Answer{Records: []dns.RR{soa(q.name, z.domain)}}
	case dns.TypeNS:
		server := "ns.dns." + z.domain
		return Answer{
			Records: []dns.RR{&dns.NS{Hdr: header(q.name, dns.TypeNS), Ns: server}},
			Extra:   []dns.RR{addressRecord(server, z.server)},
		}
	default:
		return empty()
	}
}

// soa returns the SOA record of a zone. Its serial is constant: there are no
// transfers, and nobody else compares it.
func soa(owner, domain string) dns.RR {
	hdr := header(owner, dns.TypeSOA)
	return &dns.SOA{
		Hdr: hdr, Ns: "ns.dns." + domain, Mbox: "hostmaster." + domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: TTL,
	}
}

func header(owner string, rtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rtype, Class: dns.ClassINET, Ttl: TTL}
}

// empty says that the name exists and holds nothing of this type.
func empty() Answer { return Answer{Rcode: dns.RcodeSuccess} }

// missing says that neither the name nor one below it exists.
func missing() Answer { return Answer{Rcode: dns.RcodeNameError} }

// filter returns a record if it is of the type asked for.
func filter(q question, record dns.RR) Answer {
	if q.qtype != record.Header().Rrtype {
		return empty()
	}
	return Answer{Records: []dns.RR{record}}
}

// addresses answers with those of list that are of the family asked for.
func addresses(q question, list []netip.Addr) Answer {
	answer := empty()
	for _, address := range list {
		record := addressRecord(q.name, address)
		if record.Header().Rrtype == q.qtype {
			answer.Records = append(answer.Records, record)
		}
	}
	return answer
}

func addressRecord(owner string, address netip.Addr) dns.RR {
	if address.Is4() {
		return &dns.A{Hdr: header(owner, dns.TypeA), A: address.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: address.AsSlice()}
}
