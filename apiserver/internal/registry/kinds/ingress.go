package kinds

import (
	"fmt"
	"net"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const ingressClassAnnotation = "kubernetes.io/ingress.class"

func ingress() *Kind {
	kind := object.KindOf[*networkingv1.Ingress]()
	return &Kind{
		Kind: kind, Singular: "ingress", ShortNames: []string{"ing"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Class", "string", "Class that names the controller"), column("Hosts", "string", "Hosts of the rules"),
			column("Address", "string", "Where the load balancer is reached"), column("Ports", "string", "Ports of the load balancer"), ageColumn(),
		},
		Row:              rowOf(ingressRow),
		ValidateName:     validation.NameIsDNSSubdomain,
		PrepareForCreate: on(func(i *networkingv1.Ingress) { i.Status = networkingv1.IngressStatus{} }),
		PrepareForUpdate: onBoth(func(i, old *networkingv1.Ingress) { i.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(i, old *networkingv1.Ingress) {
			i.Spec = old.Spec
			keepStatusMetadata(&i.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual: specEqual(func(i *networkingv1.Ingress) *networkingv1.IngressSpec { return &i.Spec }),
		Validate: check(func(i *networkingv1.Ingress) field.ErrorList {
			return validateIngressSpec(&i.Spec, field.NewPath("spec"))
		}),
		ValidateCreate: check(func(i *networkingv1.Ingress) field.ErrorList {
			class, annotated := i.Annotations[ingressClassAnnotation]
			if !annotated || i.Spec.IngressClassName == nil {
				return nil
			}
			return field.ErrorList{field.Invalid(field.NewPath("metadata", "annotations").Child(ingressClassAnnotation), class, "can not be set when the class field is also set")}
		}),
		ValidateStatusUpdate: checkBoth(func(i, _ *networkingv1.Ingress) field.ErrorList {
			return validateIngressStatus(i.Status.LoadBalancer.Ingress, field.NewPath("status", "loadBalancer", "ingress"))
		}),
	}
}

func validateIngressSpec(spec *networkingv1.IngressSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if spec.DefaultBackend != nil {
		errs = append(errs, validateIngressBackend(spec.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range spec.Rules {
		rule, at := &spec.Rules[i], path.Child("rules").Index(i)
		errs = append(errs, validateIngressHost(rule.Host, at.Child("host"))...)
		if rule.HTTP == nil {
			continue
		}
		paths := at.Child("http", "paths")
		if len(rule.HTTP.Paths) == 0 {
			errs = append(errs, field.Required(paths, ""))
		}
		for j := range rule.HTTP.Paths {
			errs = append(errs, validateIngressPath(&rule.HTTP.Paths[j], paths.Index(j))...)
		}
	}
	for i := range spec.TLS {
		tls, at := &spec.TLS[i], path.Child("tls").Index(i)
		for j, host := range tls.Hosts {
			errs = append(errs, validateDNSHost(host, at.Child("hosts").Index(j))...)
		}
		errs = append(errs, validateSubdomain(tls.SecretName, at.Child("secretName"))...)
	}
	if class := spec.IngressClassName; class != nil {
		errs = append(errs, messages(validation.NameIsDNSSubdomain(*class, false), *class, path.Child("ingressClassName"))...)
	}
	return errs
}

// validateIngressHost checks the host of a rule; an empty one matches all.
func validateIngressHost(host string, at *field.Path) field.ErrorList {
	if host == "" {
		return nil
	}
	if net.ParseIP(host) != nil {
		return field.ErrorList{field.Invalid(at, host, "must be a DNS name, not an IP address")}
	}
	return validateDNSHost(host, at)
}

func validateDNSHost(host string, at *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return messages(utilvalidation.IsWildcardDNS1123Subdomain(host), host, at)
	}
	return messages(utilvalidation.IsDNS1123Subdomain(host), host, at)
}

func validateIngressPath(p *networkingv1.HTTPIngressPath, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	absolute := strings.HasPrefix(p.Path, "/")
	switch {
	case p.PathType == nil:
		errs = append(errs, field.Required(at.Child("pathType"), "pathType must be specified"))
	case *p.PathType == networkingv1.PathTypeExact, *p.PathType == networkingv1.PathTypePrefix:
		if !absolute {
			errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
		}
		for _, sequence := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, sequence) {
				errs = append(errs, field.Invalid(at.Child("path"), p.Path, fmt.Sprintf("must not contain '%s'", sequence)))
			}
		}
		for _, suffix := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, suffix) {
				errs = append(errs, field.Invalid(at.Child("path"), p.Path, fmt.Sprintf("cannot end with '%s'", suffix)))
			}
		}
	case *p.PathType == networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !absolute {
			errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix,
		}))
	}
	return append(errs, validateIngressBackend(&p.Backend, at.Child("backend"))...)
}

func validateIngressBackend(backend *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch service := backend.Service; {
	case service != nil && backend.Resource != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case service == nil && backend.Resource == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	case service == nil:
		return validateTypedReference(backend.Resource.APIGroup, backend.Resource.Kind, backend.Resource.Name, at.Child("resource"))
	default:
		where := at.Child("service")
		if service.Name == "" {
			errs = append(errs, field.Required(where.Child("name"), ""))
		} else {
			errs = append(errs, messages(validation.NameIsDNS1035Label(service.Name, false), service.Name, where.Child("name"))...)
		}
		switch port := service.Port; {
		case port.Name != "" && port.Number != 0:
			errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
		case port.Name != "":
			errs = append(errs, messages(utilvalidation.IsValidPortName(port.Name), port.Name, where.Child("port", "name"))...)
		case port.Number != 0:
			errs = append(errs, messages(utilvalidation.IsValidPortNum(int(port.Number)), port.Number, where.Child("port", "number"))...)
		default:
			errs = append(errs, field.Required(at, "port name or number is required"))
		}
	}
	return errs
}

func validateIngressStatus(list []networkingv1.IngressLoadBalancerIngress, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		ingress, at := &list[i], path.Index(i)
		if ingress.IP != "" {
			errs = append(errs, utilvalidation.IsValidIPForLegacyField(at.Child("ip"), ingress.IP, false, nil)...)
		}
		if ingress.Hostname != "" {
			errs = append(errs, messages(utilvalidation.IsDNS1123Subdomain(ingress.Hostname), ingress.Hostname, at.Child("hostname"))...)
			if net.ParseIP(ingress.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), ingress.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

func ingressRow(i *networkingv1.Ingress, now time.Time) []any {
	class := "<none>"
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	}
	var hosts, addresses []string
	for _, rule := range i.Spec.Rules {
		if rule.Host != "" {
			hosts = append(hosts, rule.Host)
		}
	}
	for _, ingress := range i.Status.LoadBalancer.Ingress {
		if ingress.IP != "" {
			addresses = append(addresses, ingress.IP)
		} else if ingress.Hostname != "" {
			addresses = append(addresses, ingress.Hostname)
		}
	}
	host := "*"
	if len(hosts) > 0 {
		host = firstFew(hosts)
	}
	ports := "80"
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{i.Name, class, host, strings.Join(addresses, ","), ports, age(i.CreationTimestamp, now)}
}
