// Package env computes the environment of a container: its own variables, whole
// ConfigMaps and Secrets, references to fields and resources, and the variables
// that describe the namespace's services.
package env

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kijabi.dev/kubelet/internal/runtime"
)

// Sources hand out what variables refer to. Errors make the container wait with
// reason CreateContainerConfigError; a missing object wraps IsNotFound.
type Sources struct {
	ConfigMap func(name string) (*corev1.ConfigMap, error)
	Secret    func(name string) (*corev1.Secret, error)
	// Services of the pod's namespace; used with enableServiceLinks. May be nil.
	Services []*corev1.Service
	// Kubernetes is default/kubernetes, which every container is told of. May be nil.
	Kubernetes *corev1.Service
	// IsNotFound classifies errors of ConfigMap and Secret.
	IsNotFound func(error) bool
	// PodIPs and HostIPs answer field references to addresses.
	PodIPs, HostIPs []string
	NodeName        string
	// Allocatable of the node stands in for limits that are not set.
	Allocatable corev1.ResourceList
}

// Compute returns the variables in order, later ones overriding earlier ones.
func Compute(pod *corev1.Pod, container *corev1.Container, from Sources) ([]runtime.EnvVar, error) {
	values := map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, known := values[name]; !known {
			order = append(order, name)
		}
		values[name] = value
	}
	services := serviceVariables(pod, from)
	for _, variable := range services {
		set(variable.Name, variable.Value)
	}
	for _, source := range container.EnvFrom {
		if err := setAll(source, from, set); err != nil {
			return nil, err
		}
	}
	for i := range container.Env {
		variable := &container.Env[i]
		value, present, err := valueOf(pod, container, variable, from, values)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", variable.Name, err)
		}
		if present {
			set(variable.Name, value)
		}
	}
	result := make([]runtime.EnvVar, 0, len(order))
	for _, name := range order {
		result = append(result, runtime.EnvVar{Name: name, Value: values[name]})
	}
	return result, nil
}

func setAll(source corev1.EnvFromSource, from Sources, set func(name, value string)) error {
	switch {
	case source.ConfigMapRef != nil:
		object, err := from.ConfigMap(source.ConfigMapRef.Name)
		if err != nil {
			if from.IsNotFound(err) && optional(source.ConfigMapRef.Optional) {
				return nil
			}
			return err
		}
		for _, key := range sortedKeys(object.Data) {
			set(source.Prefix+key, object.Data[key])
		}
	case source.SecretRef != nil:
		object, err := from.Secret(source.SecretRef.Name)
		if err != nil {
			if from.IsNotFound(err) && optional(source.SecretRef.Optional) {
				return nil
			}
			return err
		}
		for _, key := range sortedKeys(object.Data) {
			set(source.Prefix+key, string(object.Data[key]))
		}
	}
	return nil
}

func valueOf(pod *corev1.Pod, container *corev1.Container, variable *corev1.EnvVar, from Sources, known map[string]string) (value string, present bool, err error) {
	source := variable.ValueFrom
	switch {
	case source == nil:
		return Expand(variable.Value, func(name string) (string, bool) { v, ok := known[name]; return v, ok }), true, nil
	case source.FieldRef != nil:
		value, err := Field(pod, source.FieldRef.FieldPath, from)
		return value, err == nil, err
	case source.ResourceFieldRef != nil:
		value, err := ResourceField(pod, container.Name, source.ResourceFieldRef, from.Allocatable)
		return value, err == nil, err
	case source.ConfigMapKeyRef != nil:
		ref := source.ConfigMapKeyRef
		object, err := from.ConfigMap(ref.Name)
		if err != nil {
			if from.IsNotFound(err) && optional(ref.Optional) {
				return "", false, nil
			}
			return "", false, err
		}
		if value, ok := object.Data[ref.Key]; ok {
			return value, true, nil
		}
		if optional(ref.Optional) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("configmap %s/%s has no key %q", pod.Namespace, ref.Name, ref.Key)
	case source.SecretKeyRef != nil:
		ref := source.SecretKeyRef
		object, err := from.Secret(ref.Name)
		if err != nil {
			if from.IsNotFound(err) && optional(ref.Optional) {
				return "", false, nil
			}
			return "", false, err
		}
		if value, ok := object.Data[ref.Key]; ok {
			return string(value), true, nil
		}
		if optional(ref.Optional) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("secret %s/%s has no key %q", pod.Namespace, ref.Name, ref.Key)
	}
	return "", false, fmt.Errorf("its source is of a kind this kubelet does not know")
}

// Field answers a downward API field reference.
func Field(pod *corev1.Pod, path string, from Sources) (string, error) {
	if key, ok := subscript(path, "metadata.annotations"); ok {
		return pod.Annotations[key], nil
	}
	if key, ok := subscript(path, "metadata.labels"); ok {
		return pod.Labels[key], nil
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return from.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP":
		return first(from.PodIPs), nil
	case "status.podIPs":
		return strings.Join(from.PodIPs, ","), nil
	case "status.hostIP":
		return first(from.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(from.HostIPs, ","), nil
	}
	return "", fmt.Errorf("field path %q is not supported", path)
}

// ResourceField answers a downward API resource reference, rounding up to the divisor.
func ResourceField(pod *corev1.Pod, container string, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	if ref.ContainerName != "" {
		container = ref.ContainerName
	}
	var requirements *corev1.ResourceRequirements
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == container {
				requirements = &list[i].Resources
			}
		}
	}
	if requirements == nil {
		return "", fmt.Errorf("container %q does not exist in the pod", container)
	}
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || (kind != "limits" && kind != "requests") {
		return "", fmt.Errorf("resource %q is not supported", ref.Resource)
	}
	var quantity resource.Quantity
	if kind == "limits" {
		quantity, ok = requirements.Limits[corev1.ResourceName(name)]
		if !ok {
			quantity = allocatable[corev1.ResourceName(name)]
		}
	} else {
		quantity, ok = requirements.Requests[corev1.ResourceName(name)]
		if !ok {
			quantity = requirements.Limits[corev1.ResourceName(name)]
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == string(corev1.ResourceCPU) {
		return strconv.FormatInt(divideUp(quantity.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(divideUp(quantity.Value(), divisor.Value()), 10), nil
}

func divideUp(value, divisor int64) int64 {
	if divisor <= 0 {
		return value
	}
	return (value + divisor - 1) / divisor
}

// serviceVariables describes the services the pod may expect to know.
func serviceVariables(pod *corev1.Pod, from Sources) []runtime.EnvVar {
	services := map[string]*corev1.Service{}
	if from.Kubernetes != nil {
		services[from.Kubernetes.Name] = from.Kubernetes
	}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		for _, service := range from.Services {
			services[service.Name] = service
		}
	}
	var result []runtime.EnvVar
	for _, name := range sortedKeys(services) {
		service := services[name]
		address := service.Spec.ClusterIP
		if address == "" || address == corev1.ClusterIPNone || len(service.Spec.Ports) == 0 {
			continue
		}
		prefix := variableName(name)
		add := func(suffix, value string) {
			result = append(result, runtime.EnvVar{Name: prefix + suffix, Value: value})
		}
		add("_SERVICE_HOST", address)
		add("_SERVICE_PORT", strconv.Itoa(int(service.Spec.Ports[0].Port)))
		for _, port := range service.Spec.Ports {
			if port.Name != "" {
				add("_SERVICE_PORT_"+variableName(port.Name), strconv.Itoa(int(port.Port)))
			}
		}
		for i, port := range service.Spec.Ports {
			number := strconv.Itoa(int(port.Port))
			protocol := string(port.Protocol)
			if protocol == "" {
				protocol = string(corev1.ProtocolTCP)
			}
			url := strings.ToLower(protocol) + "://" + net.JoinHostPort(address, number)
			if i == 0 {
				add("_PORT", url)
			}
			stem := "_PORT_" + number + "_" + strings.ToUpper(protocol)
			add(stem, url)
			add(stem+"_PROTO", strings.ToLower(protocol))
			add(stem+"_PORT", number)
			add(stem+"_ADDR", address)
		}
	}
	return result
}

// Expand replaces $(NAME) by what lookup knows, $$ by $, and leaves unknown names as they are.
func Expand(text string, lookup func(string) (string, bool)) string {
	if !strings.Contains(text, "$") {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(text[i:], ')')
			if end < 0 {
				out.WriteByte('$')
				continue
			}
			reference := text[i : i+end+1]
			if value, ok := lookup(reference[2 : len(reference)-1]); ok {
				out.WriteString(value)
			} else {
				out.WriteString(reference)
			}
			i += end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

func subscript(path, base string) (string, bool) {
	rest, ok := strings.CutPrefix(path, base+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, key := range sortedKeys(m) {
		lines = append(lines, key+"="+strconv.Quote(m[key]))
	}
	return strings.Join(lines, "\n")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func variableName(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func optional(flag *bool) bool { return flag != nil && *flag }

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
