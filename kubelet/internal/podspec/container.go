package podspec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/env"
	"kijabi.dev/kubelet/internal/resources"
	"kijabi.dev/kubelet/internal/runtime"
)

// Where a container's termination message goes by default.
const defaultMessagePath = "/dev/termination-log"

// What an unprivileged container must not see or change in /proc and /sys.
func maskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func readOnlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// ConfigError says that a container cannot be described, CreateContainerConfigError.
type ConfigError struct{ Reason error }

// Error gives the reason.
func (e *ConfigError) Error() string { return e.Reason.Error() }

// Unwrap gives the reason.
func (e *ConfigError) Unwrap() error { return e.Reason }

// Container returns the spec of instance attempt of a container. Mounts are the
// volumes' ones; /etc/hosts and the termination message are added here.
func Container(pod *corev1.Pod, c *corev1.Container, image runtime.Image, attempt uint32, variables []runtime.EnvVar, mounts []runtime.Mount, node Node) (runtime.ContainerSpec, error) {
	security, err := securityOf(pod, c, image)
	if err != nil {
		return runtime.ContainerSpec{}, &ConfigError{err}
	}
	lookup := func(name string) (string, bool) {
		for i := range variables {
			if variables[i].Name == name {
				return variables[i].Value, true
			}
		}
		return "", false
	}
	expand := func(words []string) []string {
		result := make([]string, 0, len(words))
		for _, word := range words {
			result = append(result, env.Expand(word, lookup))
		}
		return result
	}
	ref := Ref(pod)
	spec := runtime.ContainerSpec{
		Pod: ref, Name: c.Name, Attempt: attempt, Image: c.Image, ImageID: image.ID,
		Command: expand(c.Command), Args: expand(c.Args), WorkingDir: c.WorkingDir, Env: variables,
		Stdin: c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		Labels: map[string]string{
			runtime.LabelPodName: ref.Name, runtime.LabelPodNamespace: ref.Namespace, runtime.LabelPodUID: ref.UID,
			runtime.LabelContainerName: c.Name,
		},
		Annotations: map[string]string{
			AnnotationHash: Hash(c), AnnotationGrace: strconv.FormatInt(GraceSeconds(pod), 10),
		},
		LogPath:   filepath.Join(c.Name, strconv.FormatUint(uint64(attempt), 10)+".log"),
		Resources: resources.ContainerLimits(pod, c, node.MemoryBytes), Security: security,
		Mounts: mounts,
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		spec.StopSignal = string(*c.Lifecycle.StopSignal)
	}
	if err := os.MkdirAll(filepath.Join(node.LogDirectory(ref), c.Name), 0o755); err != nil {
		return runtime.ContainerSpec{}, fmt.Errorf("log directory: %w", err)
	}
	message, err := createMessageFile(node, ref.UID, c.Name, attempt)
	if err != nil {
		return runtime.ContainerSpec{}, err
	}
	path := c.TerminationMessagePath
	if path == "" {
		path = defaultMessagePath
	}
	spec.Mounts = append(spec.Mounts, runtime.Mount{ContainerPath: path, HostPath: message})
	if !mounted(mounts, "/etc/hosts") {
		spec.Mounts = append(spec.Mounts, runtime.Mount{ContainerPath: "/etc/hosts", HostPath: hostsFile(node, ref.UID)})
	}
	return spec, nil
}

func mounted(mounts []runtime.Mount, path string) bool {
	for i := range mounts {
		if filepath.Clean(mounts[i].ContainerPath) == path {
			return true
		}
	}
	return false
}

// Hash changes when a container must be replaced for its spec to take effect.
// Of a running pod's spec only the image may change that way.
func Hash(c *corev1.Container) string {
	sum := sha256.Sum256([]byte(c.Name + "\x00" + c.Image))
	return hex.EncodeToString(sum[:8])
}

func securityOf(pod *corev1.Pod, c *corev1.Container, image runtime.Image) (runtime.ContainerSecurity, error) {
	result := runtime.ContainerSecurity{
		HostNetwork: pod.Spec.HostNetwork, HostPID: pod.Spec.HostPID, HostIPC: pod.Spec.HostIPC,
		SharePID:           pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace,
		SupplementalGroups: groups(pod), Seccomp: runtime.Seccomp{Type: "RuntimeDefault"},
	}
	var nonRoot *bool
	if context := pod.Spec.SecurityContext; context != nil {
		result.RunAsUser, result.RunAsGroup, nonRoot = context.RunAsUser, context.RunAsGroup, context.RunAsNonRoot
		setSeccomp(&result.Seccomp, context.SeccompProfile)
	}
	unmasked := false
	if context := c.SecurityContext; context != nil {
		if context.RunAsUser != nil {
			result.RunAsUser = context.RunAsUser
		}
		if context.RunAsGroup != nil {
			result.RunAsGroup = context.RunAsGroup
		}
		if context.RunAsNonRoot != nil {
			nonRoot = context.RunAsNonRoot
		}
		setSeccomp(&result.Seccomp, context.SeccompProfile)
		result.Privileged = context.Privileged != nil && *context.Privileged
		result.ReadOnlyRootFS = context.ReadOnlyRootFilesystem != nil && *context.ReadOnlyRootFilesystem
		result.NoNewPrivileges = context.AllowPrivilegeEscalation != nil && !*context.AllowPrivilegeEscalation
		unmasked = context.ProcMount != nil && *context.ProcMount == corev1.UnmaskedProcMount
		if capabilities := context.Capabilities; capabilities != nil {
			for _, capability := range capabilities.Add {
				result.AddCapabilities = append(result.AddCapabilities, string(capability))
			}
			for _, capability := range capabilities.Drop {
				result.DropCapabilities = append(result.DropCapabilities, string(capability))
			}
		}
	}
	if result.Privileged {
		result.Seccomp = runtime.Seccomp{Type: "Unconfined"}
	} else if !unmasked {
		result.MaskedPaths, result.ReadOnlyPaths = maskedPaths(), readOnlyPaths()
	}
	if result.RunAsUser == nil && result.RunAsGroup != nil {
		// The runtime wants a user with a group; the image says which.
		uid := int64(0)
		if image.UID != nil {
			uid = *image.UID
		}
		if image.User == "" {
			result.RunAsUser = &uid
		}
	}
	if nonRoot != nil && *nonRoot {
		switch {
		case result.RunAsUser != nil:
			if *result.RunAsUser == 0 {
				return result, fmt.Errorf("container %s: runAsUser is 0 while runAsNonRoot is set", c.Name)
			}
		case image.UID != nil && *image.UID == 0, image.UID == nil && image.User == "":
			return result, fmt.Errorf("container %s: runAsNonRoot is set and image %s runs as root; set runAsUser", c.Name, c.Image)
		case image.UID == nil:
			return result, fmt.Errorf("container %s: runAsNonRoot is set and image %s names its user %q, which may be root; set runAsUser", c.Name, c.Image, image.User)
		}
	}
	return result, nil
}

func setSeccomp(into *runtime.Seccomp, profile *corev1.SeccompProfile) {
	if profile == nil {
		return
	}
	into.Type = string(profile.Type)
	if profile.LocalhostProfile != nil {
		into.Localhost = *profile.LocalhostProfile
	}
}
