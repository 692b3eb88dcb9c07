package podspec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// MaxMessage bounds a termination message, bytes.
const MaxMessage = 4096

func hostsFile(node Node, uid string) string {
	return filepath.Join(node.PodDirectory(uid), "etc-hosts")
}

// WriteHosts writes the pod's /etc/hosts. Idempotent.
func WriteHosts(pod *corev1.Pod, node Node, podIPs []string) error {
	var text strings.Builder
	text.WriteString("# Written by the kubelet.\n")
	if pod.Spec.HostNetwork {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("machine's hosts file: %w", err)
		}
		text.Write(own)
	} else {
		text.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name := Hostname(pod, "")
		for _, ip := range podIPs {
			if pod.Spec.Subdomain != "" {
				short, _, _ := strings.Cut(name, ".")
				fmt.Fprintf(&text, "%s\t%s\t%s\n", ip, fqdn(pod, short, node.ClusterDomain), short)
			} else {
				fmt.Fprintf(&text, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		text.WriteString("\n# Host aliases of the pod.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&text, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	path := hostsFile(node, string(pod.UID))
	if present, err := os.ReadFile(path); err == nil && string(present) == text.String() {
		return nil
	}
	// Written in place: containers have this very file mounted.
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("hosts file: %w", err)
	}
	return nil
}

func messageFile(node Node, uid, container string, attempt uint32) string {
	return filepath.Join(node.PodDirectory(uid), "containers", container, strconv.FormatUint(uint64(attempt), 10)+".message")
}

func createMessageFile(node Node, uid, container string, attempt uint32) (string, error) {
	path := messageFile(node, uid, container, attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("termination message: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666)
	if err != nil {
		return "", fmt.Errorf("termination message: %w", err)
	}
	// The container may run as any user; the umask must not keep it out.
	err = errors.Join(file.Chmod(0o666), file.Close())
	if err != nil {
		return "", fmt.Errorf("termination message: %w", err)
	}
	return path, nil
}

// TerminationMessage reads what a container left behind; logTail supplies the end
// of its log for the policy FallbackToLogsOnError.
func TerminationMessage(node Node, uid string, c *corev1.Container, attempt uint32, exitCode int32, logTail func() string) string {
	file, err := os.Open(messageFile(node, uid, c.Name, attempt))
	if err == nil {
		defer func() { _ = file.Close() }()
		buffer := make([]byte, MaxMessage)
		n, _ := file.Read(buffer)
		if n > 0 {
			return strings.ToValidUTF8(string(buffer[:n]), "\uFFFD")
		}
	}
	if c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError && exitCode != 0 {
		return logTail()
	}
	return ""
}
