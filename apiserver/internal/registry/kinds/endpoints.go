package kinds

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

type (
	endpointsObject = corev1.Endpoints      //nolint:staticcheck // clients still have it
	endpointSubset  = corev1.EndpointSubset //nolint:staticcheck // clients still have it
)

func endpoints() *Kind {
	return &Kind{
		Kind: object.KindOf[*endpointsObject](), Singular: "endpoints", ShortNames: []string{"ep"}, Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("Endpoints", "string", "Addresses and ports"), ageColumn()},
		Row: rowOf(func(e *endpointsObject, now time.Time) []any {
			return []any{e.Name, endpointsText(e.Subsets), age(e.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(e *endpointsObject) {
			for i := range e.Subsets {
				for j := range e.Subsets[i].Ports {
					setDefault(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
				}
			}
		}),
		Validate: check(validateEndpointsObject),
	}
}

func validateEndpointsObject(e *endpointsObject) field.ErrorList {
	var errs field.ErrorList
	for i := range e.Subsets {
		subset, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(subset.Addresses) == 0 && len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range subset.Addresses {
			errs = append(errs, validateSubsetAddress(&subset.Addresses[j], at.Child("addresses").Index(j))...)
		}
		for j := range subset.NotReadyAddresses {
			errs = append(errs, validateSubsetAddress(&subset.NotReadyAddresses[j], at.Child("notReadyAddresses").Index(j))...)
		}
		for j := range subset.Ports {
			errs = append(errs, validateSubsetPort(&subset.Ports[j], len(subset.Ports) > 1, at.Child("ports").Index(j))...)
		}
	}
	return errs
}

func validateSubsetAddress(address *corev1.EndpointAddress, at *field.Path) field.ErrorList {
	errs := utilvalidation.IsValidIPForLegacyField(at.Child("ip"), address.IP, false, nil)
	if len(errs) == 0 {
		errs = endpointAddressErrors(address.IP, at.Child("ip"))
	}
	if address.Hostname != "" {
		errs = append(errs, messages(utilvalidation.IsDNS1123Label(address.Hostname), address.Hostname, at.Child("hostname"))...)
	}
	if address.NodeName != nil {
		errs = append(errs, messages(validation.NameIsDNSSubdomain(*address.NodeName, false), *address.NodeName, at.Child("nodeName"))...)
	}
	return errs
}

func validateSubsetPort(port *corev1.EndpointPort, named bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case port.Name != "":
		errs = append(errs, messages(utilvalidation.IsDNS1123Label(port.Name), port.Name, at.Child("name"))...)
	case named:
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	errs = append(errs, messages(utilvalidation.IsValidPortNum(int(port.Port)), port.Port, at.Child("port"))...)
	errs = append(errs, validateProtocol(port.Protocol, at.Child("protocol"))...)
	if port.AppProtocol != nil {
		errs = append(errs, messages(utilvalidation.IsQualifiedName(*port.AppProtocol), *port.AppProtocol, at.Child("appProtocol"))...)
	}
	return errs
}

// endpointsText prints the first three endpoints and how many more there are.
func endpointsText(subsets []endpointSubset) string {
	const shown = 3
	var list []string
	count := 0
	add := func(text string) {
		if count++; count <= shown {
			list = append(list, text)
		}
	}
	for i := range subsets {
		if len(subsets[i].Ports) == 0 {
			for j := range subsets[i].Addresses {
				add(subsets[i].Addresses[j].IP)
			}
		}
		for _, port := range subsets[i].Ports {
			for j := range subsets[i].Addresses {
				add(net.JoinHostPort(subsets[i].Addresses[j].IP, strconv.Itoa(int(port.Port))))
			}
		}
	}
	switch {
	case count == 0:
		return "<none>"
	case count > shown:
		return fmt.Sprintf("%s + %d more...", strings.Join(list, ","), count-shown)
	}
	return strings.Join(list, ",")
}
