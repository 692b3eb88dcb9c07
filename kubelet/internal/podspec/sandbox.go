// Package podspec turns a pod of the API into the specs that the runtime takes:
// names, DNS, security, mounts, and the files /etc/hosts and termination messages.
package podspec

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/runtime"
)

// Annotations on sandboxes and containers, read back when a pod's API object is gone.
const (
	AnnotationHash  = "kijabi.dev/container-hash"
	AnnotationGrace = "kijabi.dev/termination-grace-seconds"
)

// Linux bounds a host name.
const maxHostname = 63

// Node is what all pods of a machine share.
type Node struct {
	Name string
	// LogRoot holds one directory per pod. Required.
	LogRoot string
	// DataDir holds one directory per pod below pods/. Required.
	DataDir string
	// DNSAddress and ClusterDomain of the cluster. Required.
	DNSAddress, ClusterDomain string
	// ResolvConf is the machine's own, default /etc/resolv.conf.
	ResolvConf string
	// MemoryBytes of the machine.
	MemoryBytes int64
}

// LogDirectory of a pod.
func (n Node) LogDirectory(pod runtime.PodRef) string {
	return filepath.Join(n.LogRoot, pod.Namespace+"_"+pod.Name+"_"+pod.UID)
}

// PodDirectory holds everything of a pod on disk except its logs.
func (n Node) PodDirectory(uid string) string { return filepath.Join(n.DataDir, "pods", uid) }

// Ref names a pod.
func Ref(pod *corev1.Pod) runtime.PodRef {
	return runtime.PodRef{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
}

// GraceSeconds a pod is given to end, 30 by default.
func GraceSeconds(pod *corev1.Pod) int64 {
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		return *pod.DeletionGracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return *pod.Spec.TerminationGracePeriodSeconds
	}
	return 30
}

// Sandbox returns the spec of a pod's sandbox.
func Sandbox(pod *corev1.Pod, node Node, cgroupParent string, attempt uint32) (runtime.SandboxSpec, error) {
	dns, err := dnsOf(pod, node)
	if err != nil {
		return runtime.SandboxSpec{}, err
	}
	ref := Ref(pod)
	spec := runtime.SandboxSpec{
		Pod: ref, Attempt: attempt, LogDirectory: node.LogDirectory(ref), DNS: dns, CgroupParent: cgroupParent,
		Labels: map[string]string{}, Annotations: map[string]string{},
		Security: runtime.SandboxSecurity{
			HostNetwork: pod.Spec.HostNetwork, HostPID: pod.Spec.HostPID, HostIPC: pod.Spec.HostIPC,
			SharePID: pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace,
			Seccomp:  runtime.Seccomp{Type: "RuntimeDefault"},
		},
	}
	for key, value := range pod.Labels {
		spec.Labels[key] = value
	}
	for key, value := range pod.Annotations {
		spec.Annotations[key] = value
	}
	spec.Labels[runtime.LabelPodName], spec.Labels[runtime.LabelPodNamespace], spec.Labels[runtime.LabelPodUID] = ref.Name, ref.Namespace, ref.UID
	spec.Annotations[AnnotationGrace] = strconv.FormatInt(GraceSeconds(pod), 10)
	if !pod.Spec.HostNetwork { // runc refuses a name for the machine's own UTS namespace
		spec.Hostname = Hostname(pod, node.ClusterDomain)
	}
	if context := pod.Spec.SecurityContext; context != nil {
		spec.Security.RunAsUser, spec.Security.RunAsGroup = context.RunAsUser, context.RunAsGroup
		spec.Security.SupplementalGroups = groups(pod)
		if len(context.Sysctls) > 0 {
			spec.Sysctls = map[string]string{}
			for _, sysctl := range context.Sysctls {
				spec.Sysctls[sysctl.Name] = sysctl.Value
			}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if context := list[i].SecurityContext; context != nil && context.Privileged != nil && *context.Privileged {
				spec.Security.Privileged = true
			}
			if pod.Spec.HostNetwork {
				continue
			}
			for _, port := range list[i].Ports {
				if port.HostPort != 0 {
					protocol := string(port.Protocol)
					if protocol == "" {
						protocol = string(corev1.ProtocolTCP)
					}
					spec.HostPorts = append(spec.HostPorts, runtime.HostPort{
						Protocol: protocol, ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIP: port.HostIP,
					})
				}
			}
		}
	}
	return spec, nil
}

// Hostname is what the pod's processes see.
func Hostname(pod *corev1.Pod, domain string) string {
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > maxHostname {
		name = strings.TrimRight(name[:maxHostname], "-.")
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && pod.Spec.Subdomain != "" {
		if full := fqdn(pod, name, domain); len(full) <= maxHostname+1 {
			return full
		}
	}
	return name
}

func fqdn(pod *corev1.Pod, name, domain string) string {
	return name + "." + pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + domain
}

func dnsOf(pod *corev1.Pod, node Node) (runtime.DNS, error) {
	var dns runtime.DNS
	policy := pod.Spec.DNSPolicy
	if pod.Spec.HostNetwork && policy == corev1.DNSClusterFirst {
		policy = corev1.DNSDefault
	}
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		var err error
		if dns, err = readResolvConf(node.ResolvConf); err != nil {
			return dns, err
		}
	default: // ClusterFirst, ClusterFirstWithHostNet
		dns.Servers = []string{node.DNSAddress}
		dns.Searches = []string{pod.Namespace + ".svc." + node.ClusterDomain, "svc." + node.ClusterDomain, node.ClusterDomain}
		dns.Options = []string{"ndots:5"}
	}
	if config := pod.Spec.DNSConfig; config != nil {
		dns.Servers = appendNew(dns.Servers, config.Nameservers...)
		dns.Searches = appendNew(dns.Searches, config.Searches...)
		for _, option := range config.Options {
			text := option.Name
			if option.Value != nil && *option.Value != "" {
				text += ":" + *option.Value
			}
			kept := dns.Options[:0:0]
			for _, present := range dns.Options {
				if name, _, _ := strings.Cut(present, ":"); name != option.Name {
					kept = append(kept, present)
				}
			}
			dns.Options = append(kept, text)
		}
	}
	return dns, nil
}

func appendNew(list []string, more ...string) []string {
	seen := map[string]bool{}
	for _, item := range list {
		seen[item] = true
	}
	for _, item := range more {
		if !seen[item] {
			seen[item] = true
			list = append(list, item)
		}
	}
	return list
}

func readResolvConf(path string) (runtime.DNS, error) {
	if path == "" {
		path = "/etc/resolv.conf"
	}
	var dns runtime.DNS
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return dns, nil // a machine without DNS has pods without
	}
	if err != nil {
		return dns, fmt.Errorf("machine's resolver: %w", err)
	}
	defer func() { _ = file.Close() }()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			dns.Servers = append(dns.Servers, fields[1])
		case "search":
			dns.Searches = fields[1:]
		case "options":
			dns.Options = fields[1:]
		}
	}
	if err := scanner.Err(); err != nil {
		return dns, fmt.Errorf("machine's resolver: %w", err)
	}
	return dns, nil
}

func groups(pod *corev1.Pod) []int64 {
	context := pod.Spec.SecurityContext
	if context == nil {
		return nil
	}
	result := append([]int64(nil), context.SupplementalGroups...)
	if context.FSGroup != nil {
		result = append(result, *context.FSGroup)
	}
	return result
}
