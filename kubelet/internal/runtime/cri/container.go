package cri

import (
	"context"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kijabi.dev/kubelet/internal/runtime"
)

// CreateContainer implements runtime.Containers.
func (c *Client) CreateContainer(ctx context.Context, id string, spec runtime.ContainerSpec, sandbox runtime.SandboxSpec) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, slowCall)
	defer cancel()
	response, err := c.runtimes.CreateContainer(ctx, &criv1.CreateContainerRequest{
		PodSandboxId: id, Config: containerConfig(spec), SandboxConfig: sandboxConfig(sandbox),
	})
	if err != nil {
		return "", translate("create container "+spec.Name, err)
	}
	return response.GetContainerId(), nil
}

// StartContainer implements runtime.Containers.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, slowCall)
	defer cancel()
	_, err := c.runtimes.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id})
	return translate("start container", err)
}

// StopContainer implements runtime.Containers.
func (c *Client) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+slowCall)
	defer cancel()
	seconds := int64((grace + time.Second - 1) / time.Second)
	_, err := c.runtimes.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id, Timeout: seconds})
	return ignoreNotFound(translate("stop container "+id, err))
}

// RemoveContainer implements runtime.Containers.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, slowCall)
	defer cancel()
	_, err := c.runtimes.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id})
	return ignoreNotFound(translate("remove container "+id, err))
}

// Container implements runtime.Containers.
func (c *Client) Container(ctx context.Context, id string) (runtime.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	response, err := c.runtimes.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return runtime.Container{}, translate("container "+id, err)
	}
	s := response.GetStatus()
	imageID := s.GetImageId()
	if ref := s.GetImageRef(); ref != "" {
		imageID = ref
	}
	return runtime.Container{
		ID: s.GetId(), Pod: podOf(s.GetLabels()), Name: s.GetMetadata().GetName(), Attempt: s.GetMetadata().GetAttempt(),
		State: stateOf(s.GetState()), CreatedAt: instant(s.GetCreatedAt()), StartedAt: instant(s.GetStartedAt()),
		FinishedAt: instant(s.GetFinishedAt()), ExitCode: s.GetExitCode(), Reason: s.GetReason(), Message: s.GetMessage(),
		Image: s.GetImage().GetImage(), ImageID: imageID, LogPath: s.GetLogPath(),
		Labels: s.GetLabels(), Annotations: s.GetAnnotations(),
	}, nil
}

// ListContainers implements runtime.Containers.
func (c *Client) ListContainers(ctx context.Context, podUID string) ([]runtime.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	request := &criv1.ListContainersRequest{}
	if podUID != "" {
		request.Filter = &criv1.ContainerFilter{LabelSelector: map[string]string{runtime.LabelPodUID: podUID}}
	}
	response, err := c.runtimes.ListContainers(ctx, request)
	if err != nil {
		return nil, translate("list containers", err)
	}
	result := make([]runtime.Container, 0, len(response.GetContainers()))
	for _, s := range response.GetContainers() {
		result = append(result, runtime.Container{
			ID: s.GetId(), SandboxID: s.GetPodSandboxId(), Pod: podOf(s.GetLabels()),
			Name: s.GetMetadata().GetName(), Attempt: s.GetMetadata().GetAttempt(), State: stateOf(s.GetState()),
			CreatedAt: instant(s.GetCreatedAt()), Image: s.GetImage().GetImage(), ImageID: s.GetImageRef(),
			Labels: s.GetLabels(), Annotations: s.GetAnnotations(),
		})
	}
	return result, nil
}

// ReopenLog implements runtime.Containers.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	_, err := c.runtimes.ReopenContainerLog(ctx, &criv1.ReopenContainerLogRequest{ContainerId: id})
	return translate("reopen log of container "+id, err)
}

func stateOf(state criv1.ContainerState) runtime.State {
	switch state {
	case criv1.ContainerState_CONTAINER_CREATED:
		return runtime.Created
	case criv1.ContainerState_CONTAINER_RUNNING:
		return runtime.Running
	case criv1.ContainerState_CONTAINER_EXITED:
		return runtime.Exited
	case criv1.ContainerState_CONTAINER_UNKNOWN:
	}
	return runtime.Unknown
}

// instant keeps "never" the zero time.
func instant(nanoseconds int64) time.Time {
	if nanoseconds <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

func containerConfig(spec runtime.ContainerSpec) *criv1.ContainerConfig {
	security := spec.Security
	image := spec.ImageID
	if image == "" {
		image = spec.Image
	}
	config := &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: spec.Name, Attempt: spec.Attempt},
		Image:    &criv1.ImageSpec{Image: image, UserSpecifiedImage: spec.Image},
		Command:  spec.Command, Args: spec.Args, WorkingDir: spec.WorkingDir,
		Labels: spec.Labels, Annotations: spec.Annotations, LogPath: spec.LogPath,
		Stdin: spec.Stdin, StdinOnce: spec.StdinOnce, Tty: spec.TTY,
		StopSignal: criv1.Signal(criv1.Signal_value["SIGNAL_"+spec.StopSignal]),
		Linux: &criv1.LinuxContainerConfig{
			Resources: &criv1.LinuxContainerResources{
				CpuShares: spec.Resources.CPUShares, CpuPeriod: spec.Resources.CPUPeriod, CpuQuota: spec.Resources.CPUQuota,
				MemoryLimitInBytes: spec.Resources.MemoryLimit, OomScoreAdj: spec.Resources.OOMScoreAdj, Unified: spec.Resources.Unified,
			},
			SecurityContext: &criv1.LinuxContainerSecurityContext{
				NamespaceOptions: containerNamespaces(security),
				Privileged:       security.Privileged,
				RunAsUser:        int64Value(security.RunAsUser), RunAsGroup: int64Value(security.RunAsGroup),
				ReadonlyRootfs: security.ReadOnlyRootFS, NoNewPrivs: security.NoNewPrivileges,
				SupplementalGroups: security.SupplementalGroups, Seccomp: seccomp(security.Seccomp),
				MaskedPaths: security.MaskedPaths, ReadonlyPaths: security.ReadOnlyPaths,
				Capabilities: &criv1.Capability{AddCapabilities: security.AddCapabilities, DropCapabilities: security.DropCapabilities},
			},
		},
	}
	for _, variable := range spec.Env {
		config.Envs = append(config.Envs, &criv1.KeyValue{Key: variable.Name, Value: []byte(variable.Value)})
	}
	for _, mount := range spec.Mounts {
		config.Mounts = append(config.Mounts, &criv1.Mount{
			ContainerPath: mount.ContainerPath, HostPath: mount.HostPath, Readonly: mount.ReadOnly,
			Propagation: propagation(mount.Propagation),
		})
	}
	for _, device := range spec.Devices {
		config.Devices = append(config.Devices, &criv1.Device{ContainerPath: device, HostPath: device, Permissions: "rwm"})
	}
	return config
}

func propagation(mode string) criv1.MountPropagation {
	switch mode {
	case "HostToContainer":
		return criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case "Bidirectional":
		return criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return criv1.MountPropagation_PROPAGATION_PRIVATE
}
