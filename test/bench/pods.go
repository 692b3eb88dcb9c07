package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	pods      = 30
	podImage  = "registry.kijabi.dev/toolbox:1"
	podPort   = 7
	podWait   = 30 * time.Second
	criSocket = "unix:///run/kijabi/containerd/containerd.sock"
)

func podCommand() []string {
	return []string{"/toolbox", "tcp-echo", fmt.Sprintf(":%d", podPort)}
}

// measurePods creates single pods, one after the other, and times until each is
// Ready; between them a bare CRI client inside the node does the same to its end: TCP accepts.
func measurePods(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, 1, 1, func(c *cluster) error {
		conn, err := c.dial(1)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		api := client.New(conn)
		var kijabi, floor []time.Duration
		for i := range pods {
			took, err := timePod(ctx, api, fmt.Sprintf("bench-%d", i))
			if err != nil {
				return err
			}
			bare, err := c.timeBare(ctx, i)
			if err != nil {
				return err
			}
			kijabi, floor = append(kijabi, took), append(floor, bare)
		}
		for _, q := range []struct {
			name string
			at   float64
		}{{"p50", 0.5}, {"p99", 0.99}} {
			k, f := quantile(kijabi, q.at), quantile(floor, q.at)
			c.table.add(row{
				what:   fmt.Sprintf("pod created → Ready seen, %d single pods, %s", pods, q.name),
				figure: milliseconds(k), floor: "bare CRI " + milliseconds(f), ratio: ratio(float64(k), float64(f)), goal: "≤ 3 × floor",
			})
		}
		return nil
	})
}

// timePod creates a pod, waits until it is Ready, and deletes it.
func timePod(ctx context.Context, api *client.Client, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, podWait)
	defer cancel()
	zero := int64(0)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &zero,
			Containers:                    []corev1.Container{{Name: "c", Image: podImage, Command: podCommand()}},
		},
	}
	began := time.Now()
	created, err := api.Create(ctx, pod)
	if err != nil {
		return 0, err
	}
	took := time.Duration(0)
	for message, err := range client.Watch[*corev1.Pod](ctx, api, client.WatchOptions{
		Namespace: "default", FieldSelector: "metadata.name=" + name, ResourceVersion: created.GetResourceVersion(),
	}) {
		if err != nil {
			return 0, err
		}
		for _, event := range message.Events {
			if ready(event.Object) && took == 0 {
				took = time.Since(began)
			}
		}
		if took > 0 {
			break
		}
	}
	if took == 0 {
		return 0, fmt.Errorf("pod %s was not Ready within %s", name, podWait)
	}
	return took, deleteAndWait(ctx, api, created)
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func deleteAndWait(ctx context.Context, api *client.Client, pod object.Object) error {
	if err := api.Delete(ctx, pod, client.DeleteOptions{}); err != nil {
		return err
	}
	for message, err := range client.Watch[*corev1.Pod](ctx, api, client.WatchOptions{
		Namespace: "default", FieldSelector: "metadata.name=" + pod.GetName(), SendInitialEvents: true,
	}) {
		if err != nil {
			return err
		}
		gone := message.InitialEnd && len(message.Events) == 0
		for _, event := range message.Events {
			gone = gone || event.Type == "DELETED"
		}
		if gone {
			return nil
		}
	}
	return ctx.Err()
}

// timeBare runs this program's cri-floor inside the node.
func (c *cluster) timeBare(ctx context.Context, n int) (time.Duration, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	// /tmp of a machine is its own; the repository's folder is the host's.
	program := filepath.Join(c.source, ".cache", "bench-cri-floor")
	if n == 0 {
		content, err := os.ReadFile(self)
		if err != nil {
			return 0, err
		}
		if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
			return 0, err
		}
		if err := os.WriteFile(program, content, 0o755); err != nil {
			return 0, err
		}
	}
	out, err := c.kijabi(ctx, "machine", "shell", "--name", clusterName, "node-1", "--", program, "cri-floor", "--name", fmt.Sprintf("floor-%d", n))
	if err != nil {
		return 0, err
	}
	var took time.Duration
	return took, json.Unmarshal(bytes.TrimSpace([]byte(out)), &took)
}

// criFloor starts one pod through the CRI alone, waits until it accepts a TCP
// connection, removes it and prints the nanoseconds that took.
func criFloor(args []string) error {
	flags := flag.NewFlagSet("cri-floor", flag.ContinueOnError)
	name := flags.String("name", "floor", "name of the pod")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), podWait)
	defer cancel()
	conn, err := grpc.NewClient(criSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	runtime := cri.NewRuntimeServiceClient(conn)
	if _, err := runtime.Version(ctx, &cri.VersionRequest{}); err != nil {
		return err
	}
	sandbox := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: *name, Namespace: "floor", Uid: *name},
		Hostname: *name, LogDirectory: "/run/kijabi/floor",
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/kijabi-floor"},
	}
	began := time.Now()
	pod, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		return err
	}
	took, err := floorContainer(ctx, runtime, pod.GetPodSandboxId(), sandbox, began)
	_, stopErr := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.GetPodSandboxId()})
	_, removeErr := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.GetPodSandboxId()})
	if err := errors.Join(err, stopErr, removeErr); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

func floorContainer(ctx context.Context, runtime cri.RuntimeServiceClient, pod string, sandbox *cri.PodSandboxConfig, began time.Time) (time.Duration, error) {
	container, err := runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: pod, SandboxConfig: sandbox,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: podImage},
			Command: podCommand(), LogPath: "c.log",
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			}},
		},
	})
	if err != nil {
		return 0, err
	}
	if _, err := runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container.GetContainerId()}); err != nil {
		return 0, err
	}
	status, err := runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		return 0, err
	}
	address := net.JoinHostPort(status.GetStatus().GetNetwork().GetIp(), fmt.Sprint(podPort))
	for {
		conn, err := (&net.Dialer{Timeout: 100 * time.Millisecond}).DialContext(ctx, "tcp", address)
		if err == nil {
			return time.Since(began), conn.Close()
		}
		if ctx.Err() != nil {
			return 0, err
		}
		time.Sleep(time.Millisecond) // the kernel refuses until the program listens
	}
}
