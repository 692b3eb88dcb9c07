package kinds

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	maxEndpoints         = 1000
	maxEndpointAddresses = 100
	maxEndpointPorts     = 20000
)

func endpointSlice() *Kind {
	return &Kind{
		Kind: object.KindOf[*discoveryv1.EndpointSlice](), Singular: "endpointslice", Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("AddressType", "string", "Family of the addresses"),
			column("Ports", "string", "Ports of every endpoint"), column("Endpoints", "string", "Addresses"), ageColumn(),
		},
		Row:          rowOf(endpointSliceRow),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(s *discoveryv1.EndpointSlice) {
			for i := range s.Ports {
				setDefaultPtr(&s.Ports[i].Name, "")
				setDefaultPtr(&s.Ports[i].Protocol, corev1.ProtocolTCP)
			}
		}),
		SpecEqual: func(obj, old object.Object) bool {
			// The whole object is the spec: generation counts every change but to metadata.
			a, b := obj.(*discoveryv1.EndpointSlice), old.(*discoveryv1.EndpointSlice)
			left := discoveryv1.EndpointSlice{AddressType: a.AddressType, Endpoints: a.Endpoints, Ports: a.Ports}
			right := discoveryv1.EndpointSlice{AddressType: b.AddressType, Endpoints: b.Endpoints, Ports: b.Ports}
			x, errX := left.Marshal()
			y, errY := right.Marshal()
			return errX == nil && errY == nil && string(x) == string(y)
		},
		Validate: check(validateEndpointSlice),
		ValidateUpdate: checkBoth(func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			return validation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))
		}),
	}
}

func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	var errs field.ErrorList
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	case "":
		errs = append(errs, field.Required(field.NewPath("addressType"), ""))
	default:
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), s.AddressType, []discoveryv1.AddressType{
			discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6,
		}))
	}
	errs = append(errs, validateEndpoints(s.Endpoints, s.AddressType, field.NewPath("endpoints"))...)
	return append(errs, validateEndpointPorts(s.Ports, field.NewPath("ports"))...)
}

func validateEndpoints(endpoints []discoveryv1.Endpoint, family discoveryv1.AddressType, path *field.Path) field.ErrorList {
	if len(endpoints) > maxEndpoints {
		return field.ErrorList{field.TooMany(path, len(endpoints), maxEndpoints)}
	}
	var errs field.ErrorList
	for i := range endpoints {
		endpoint, at := &endpoints[i], path.Index(i)
		addresses := at.Child("addresses")
		switch n := len(endpoint.Addresses); {
		case n == 0:
			errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
		case n > maxEndpointAddresses:
			errs = append(errs, field.TooMany(addresses, n, maxEndpointAddresses))
		}
		for j, address := range endpoint.Addresses {
			errs = append(errs, validateEndpointAddress(address, family, addresses.Index(j))...)
		}
		if endpoint.NodeName != nil {
			for _, msg := range validation.NameIsDNSSubdomain(*endpoint.NodeName, false) {
				errs = append(errs, field.Invalid(at.Child("nodeName"), *endpoint.NodeName, msg))
			}
		}
		if endpoint.Hostname != nil {
			for _, msg := range utilvalidation.IsDNS1123Label(*endpoint.Hostname) {
				errs = append(errs, field.Invalid(at.Child("hostname"), *endpoint.Hostname, msg))
			}
		}
		errs = append(errs, metavalidation.ValidateLabels(endpoint.DeprecatedTopology, at.Child("deprecatedTopology"))...)
	}
	return errs
}

func validateEndpointAddress(address string, family discoveryv1.AddressType, path *field.Path) field.ErrorList {
	switch family {
	case discoveryv1.AddressTypeIPv4:
		// Quick path for what is almost always there.
		if ip, err := netip.ParseAddr(address); err == nil && ip.Is4() && usableEndpoint(ip) {
			return nil
		}
		errs := utilvalidation.IsValidIPForLegacyField(path, address, false, nil)
		if len(errs) > 0 {
			return errs
		}
		if ip := net.ParseIP(address); ip.To4() == nil {
			return field.ErrorList{field.Invalid(path, address, "must be an IPv4 address")}
		}
		return endpointAddressErrors(address, path)
	case discoveryv1.AddressTypeIPv6:
		errs := utilvalidation.IsValidIPForLegacyField(path, address, false, nil)
		if len(errs) > 0 {
			return errs
		}
		if ip := net.ParseIP(address); ip.To4() != nil {
			return field.ErrorList{field.Invalid(path, address, "must be an IPv6 address")}
		}
		return endpointAddressErrors(address, path)
	case discoveryv1.AddressTypeFQDN:
		return utilvalidation.IsFullyQualifiedDomainName(path, address)
	}
	return nil
}

func usableEndpoint(ip netip.Addr) bool {
	return !ip.IsUnspecified() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsLinkLocalMulticast()
}

func endpointAddressErrors(address string, path *field.Path) field.ErrorList {
	ip := net.ParseIP(address)
	switch {
	case ip.IsUnspecified():
		return field.ErrorList{field.Invalid(path, address, fmt.Sprintf("may not be unspecified (%v)", address))}
	case ip.IsLoopback():
		return field.ErrorList{field.Invalid(path, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case ip.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(path, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case ip.IsLinkLocalMulticast():
		return field.ErrorList{field.Invalid(path, address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")}
	}
	return nil
}

func validateEndpointPorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if len(ports) > maxEndpointPorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxEndpointPorts)}
	}
	var errs field.ErrorList
	names := map[string]bool{}
	for i, port := range ports {
		at := path.Index(i)
		if port.Name != nil {
			if *port.Name != "" {
				for _, msg := range utilvalidation.IsDNS1123Label(*port.Name) {
					errs = append(errs, field.Invalid(at.Child("name"), *port.Name, msg))
				}
			}
			if names[*port.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), *port.Name))
			}
			names[*port.Name] = true
		}
		if port.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, validateProtocol(*port.Protocol, at.Child("protocol"))...)
		}
		if port.Port != nil {
			for _, msg := range utilvalidation.IsValidPortNum(int(*port.Port)) {
				errs = append(errs, field.Invalid(at.Child("port"), *port.Port, msg))
			}
		}
		if port.AppProtocol != nil {
			for _, msg := range utilvalidation.IsQualifiedName(*port.AppProtocol) {
				errs = append(errs, field.Invalid(at.Child("appProtocol"), *port.AppProtocol, msg))
			}
		}
	}
	return errs
}

func endpointSliceRow(s *discoveryv1.EndpointSlice, now time.Time) []any {
	var ports, addresses []string
	for _, port := range s.Ports {
		text := "*"
		if port.Port != nil {
			text = strconv.Itoa(int(*port.Port))
		}
		ports = append(ports, text)
	}
	for i := range s.Endpoints {
		addresses = append(addresses, s.Endpoints[i].Addresses...)
	}
	return []any{s.Name, string(s.AddressType), firstFew(ports), firstFew(addresses), age(s.CreationTimestamp, now)}
}

// firstFew prints three of a list and how many more there are.
func firstFew(list []string) string {
	switch {
	case len(list) == 0:
		return "<unset>"
	case len(list) <= 3:
		return strings.Join(list, ",")
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(list[:3], ","), len(list)-3)
}
