package cri

import (
	"context"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kijabi.dev/kubelet/internal/runtime"
)

// RunSandbox implements runtime.Sandboxes.
func (c *Client) RunSandbox(ctx context.Context, spec runtime.SandboxSpec) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, slowCall)
	defer cancel()
	response, err := c.runtimes.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: sandboxConfig(spec)})
	if err != nil {
		return "", translate("run sandbox", err)
	}
	return response.GetPodSandboxId(), nil
}

// StopSandbox implements runtime.Sandboxes.
func (c *Client) StopSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, slowCall)
	defer cancel()
	_, err := c.runtimes.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(translate("stop sandbox "+id, err))
}

// RemoveSandbox implements runtime.Sandboxes.
func (c *Client) RemoveSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, slowCall)
	defer cancel()
	_, err := c.runtimes.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(translate("remove sandbox "+id, err))
}

// Sandbox implements runtime.Sandboxes.
func (c *Client) Sandbox(ctx context.Context, id string) (runtime.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	response, err := c.runtimes.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return runtime.Sandbox{}, translate("sandbox "+id, err)
	}
	s := response.GetStatus()
	result := sandboxOf(s.GetId(), s.GetMetadata(), s.GetState(), s.GetCreatedAt(), s.GetLabels(), s.GetAnnotations())
	if ip := s.GetNetwork().GetIp(); ip != "" {
		result.IPs = append(result.IPs, ip)
	}
	for _, ip := range s.GetNetwork().GetAdditionalIps() {
		result.IPs = append(result.IPs, ip.GetIp())
	}
	return result, nil
}

// ListSandboxes implements runtime.Sandboxes.
func (c *Client) ListSandboxes(ctx context.Context, podUID string) ([]runtime.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	request := &criv1.ListPodSandboxRequest{}
	if podUID != "" {
		request.Filter = &criv1.PodSandboxFilter{LabelSelector: map[string]string{runtime.LabelPodUID: podUID}}
	}
	response, err := c.runtimes.ListPodSandbox(ctx, request)
	if err != nil {
		return nil, translate("list sandboxes", err)
	}
	result := make([]runtime.Sandbox, 0, len(response.GetItems()))
	for _, s := range response.GetItems() {
		result = append(result, sandboxOf(s.GetId(), s.GetMetadata(), s.GetState(), s.GetCreatedAt(), s.GetLabels(), s.GetAnnotations()))
	}
	return result, nil
}

func sandboxOf(id string, metadata *criv1.PodSandboxMetadata, state criv1.PodSandboxState, created int64, labels, annotations map[string]string) runtime.Sandbox {
	return runtime.Sandbox{
		ID:      id,
		Pod:     runtime.PodRef{Namespace: metadata.GetNamespace(), Name: metadata.GetName(), UID: metadata.GetUid()},
		Attempt: metadata.GetAttempt(), Ready: state == criv1.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Unix(0, created), Labels: labels, Annotations: annotations,
	}
}

func sandboxConfig(spec runtime.SandboxSpec) *criv1.PodSandboxConfig {
	security := spec.Security
	config := &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: spec.Pod.Name, Namespace: spec.Pod.Namespace, Uid: spec.Pod.UID, Attempt: spec.Attempt},
		Hostname: spec.Hostname, LogDirectory: spec.LogDirectory,
		DnsConfig: &criv1.DNSConfig{Servers: spec.DNS.Servers, Searches: spec.DNS.Searches, Options: spec.DNS.Options},
		Labels:    spec.Labels, Annotations: spec.Annotations,
		Linux: &criv1.LinuxPodSandboxConfig{
			CgroupParent: spec.CgroupParent, Sysctls: spec.Sysctls,
			SecurityContext: &criv1.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(security.HostNetwork, security.HostPID, security.HostIPC, security.SharePID),
				RunAsUser:        int64Value(security.RunAsUser), RunAsGroup: int64Value(security.RunAsGroup),
				SupplementalGroups: security.SupplementalGroups, Privileged: security.Privileged,
				Seccomp: seccomp(security.Seccomp),
			},
		},
	}
	for _, port := range spec.HostPorts {
		config.PortMappings = append(config.PortMappings, &criv1.PortMapping{
			Protocol:      criv1.Protocol(criv1.Protocol_value[port.Protocol]),
			ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP,
		})
	}
	return config
}

// containerNamespaces lets a container without shared processes see those of its target.
func containerNamespaces(security runtime.ContainerSecurity) *criv1.NamespaceOption {
	options := namespaces(security.HostNetwork, security.HostPID, security.HostIPC, security.SharePID)
	if security.TargetID != "" && options.Pid == criv1.NamespaceMode_CONTAINER {
		options.Pid, options.TargetId = criv1.NamespaceMode_TARGET, security.TargetID
	}
	return options
}

func namespaces(hostNetwork, hostPID, hostIPC, sharePID bool) *criv1.NamespaceOption {
	options := &criv1.NamespaceOption{Network: criv1.NamespaceMode_POD, Pid: criv1.NamespaceMode_CONTAINER, Ipc: criv1.NamespaceMode_POD}
	if hostNetwork {
		options.Network = criv1.NamespaceMode_NODE
	}
	if sharePID {
		options.Pid = criv1.NamespaceMode_POD
	}
	if hostPID {
		options.Pid = criv1.NamespaceMode_NODE
	}
	if hostIPC {
		options.Ipc = criv1.NamespaceMode_NODE
	}
	return options
}

func seccomp(profile runtime.Seccomp) *criv1.SecurityProfile {
	switch profile.Type {
	case "Unconfined":
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
	case "Localhost":
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: profile.Localhost}
	}
	return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
}

func int64Value(value *int64) *criv1.Int64Value {
	if value == nil {
		return nil
	}
	return &criv1.Int64Value{Value: *value}
}
