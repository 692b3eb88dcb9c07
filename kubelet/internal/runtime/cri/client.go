// Package cri implements runtime.Runtime over a CRI socket, such as containerd's
// or CRI-O's. It is the only importer of the CRI API.
package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kijabi.dev/kubelet/internal/runtime"
)

// Deadlines of calls that the caller's context does not bound. A runtime that
// hangs must surface as an error of the pod at hand, not as a stuck worker.
const (
	quickCall = 10 * time.Second
	slowCall  = 2 * time.Minute
)

// maxMessage bounds a response: a full node's container list with annotations.
const maxMessage = 16 << 20

// Client talks to one CRI socket.
type Client struct {
	conn     *grpc.ClientConn
	runtimes criv1.RuntimeServiceClient
	images   criv1.ImageServiceClient
}

var _ runtime.Runtime = (*Client)(nil)

// New returns a client of endpoint, unix:///path. It connects when first used and
// reconnects by itself, quickly, since containerd restarts in tens of milliseconds.
func New(endpoint string) (*Client, error) {
	if !strings.HasPrefix(endpoint, "unix://") {
		return nil, fmt.Errorf("container runtime endpoint %q: want unix:///path/to/socket", endpoint)
	}
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(connectParams()),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("container runtime %s: %w", endpoint, err)
	}
	return &Client{conn: conn, runtimes: criv1.NewRuntimeServiceClient(conn), images: criv1.NewImageServiceClient(conn)}, nil
}

func connectParams() grpc.ConnectParams {
	params := grpc.ConnectParams{MinConnectTimeout: 2 * time.Second}
	params.Backoff.BaseDelay = 50 * time.Millisecond
	params.Backoff.Multiplier = 1.6
	params.Backoff.MaxDelay = time.Second
	return params
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Status implements runtime.Observer.
func (c *Client) Status(ctx context.Context) (runtime.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	version, err := c.runtimes.Version(ctx, &criv1.VersionRequest{})
	if err != nil {
		return runtime.Status{}, translate("version of the container runtime", err)
	}
	response, err := c.runtimes.Status(ctx, &criv1.StatusRequest{})
	if err != nil {
		return runtime.Status{}, translate("status of the container runtime", err)
	}
	result := runtime.Status{Name: version.GetRuntimeName(), Version: version.GetRuntimeVersion()}
	for _, condition := range response.GetStatus().GetConditions() {
		why := strings.TrimSpace(condition.GetReason() + " " + condition.GetMessage())
		switch condition.GetType() {
		case criv1.RuntimeReady:
			result.Ready, result.Reason = condition.GetStatus(), why
		case criv1.NetworkReady:
			result.NetworkReady, result.NetworkReason = condition.GetStatus(), why
		}
	}
	return result, nil
}

// Events implements runtime.Observer.
func (c *Client) Events(ctx context.Context, opened func(), observe func(runtime.Event)) error {
	stream, err := c.runtimes.GetContainerEvents(ctx, &criv1.GetEventsRequest{})
	if err != nil {
		return translate("container events", err)
	}
	opened()
	for {
		event, err := stream.Recv()
		if err != nil {
			return translate("container events", err)
		}
		metadata := event.GetPodSandboxStatus().GetMetadata()
		observe(runtime.Event{
			Pod:         runtime.PodRef{Namespace: metadata.GetNamespace(), Name: metadata.GetName(), UID: metadata.GetUid()},
			ContainerID: event.GetContainerId(), SandboxID: event.GetPodSandboxStatus().GetId(),
		})
	}
}

// Stats implements runtime.Observer.
func (c *Client) Stats(ctx context.Context) ([]runtime.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	response, err := c.runtimes.ListContainerStats(ctx, &criv1.ListContainerStatsRequest{})
	if err != nil {
		return nil, translate("container statistics", err)
	}
	result := make([]runtime.Stats, 0, len(response.GetStats()))
	places := map[container]int{}
	for _, stats := range response.GetStats() {
		read := runtime.Stats{
			Pod:            podOf(stats.GetAttributes().GetLabels()),
			Container:      stats.GetAttributes().GetMetadata().GetName(),
			CPUNanoseconds: stats.GetCpu().GetUsageCoreNanoSeconds().GetValue(),
			MemoryBytes:    stats.GetMemory().GetWorkingSetBytes().GetValue(),
			Time:           time.Unix(0, stats.GetCpu().GetTimestamp()),
		}
		of := container{read.Pod.UID, read.Container}
		at, known := places[of]
		switch {
		case stats.GetCpu().GetTimestamp() == 0: // it has ended
		case !known:
			places[of] = len(result)
			result = append(result, read)
		case read.Time.After(result[at].Time): // the runtime remembers the one before, too
			result[at] = read
		}
	}
	return result, nil
}

// container names one of a pod's containers, whichever instance of it.
type container struct{ podUID, name string }

func podOf(labels map[string]string) runtime.PodRef {
	return runtime.PodRef{
		Namespace: labels[runtime.LabelPodNamespace], Name: labels[runtime.LabelPodName], UID: labels[runtime.LabelPodUID],
	}
}

// translate names the thing and gives the error a class that callers can test.
func translate(what string, err error) error {
	if err == nil {
		return nil
	}
	message := status.Convert(err).Message()
	switch {
	case status.Code(err) == codes.NotFound:
		return fmt.Errorf("%s: %w: %s", what, runtime.ErrNotFound, message)
	case status.Code(err) == codes.AlreadyExists,
		strings.Contains(message, "is reserved for"): // containerd, when a name is taken
		return fmt.Errorf("%s: %w: %s", what, runtime.ErrInUse, message)
	case status.Code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w: %s", what, context.DeadlineExceeded, message)
	case status.Code(err) == codes.Canceled:
		return fmt.Errorf("%s: %w", what, context.Canceled)
	}
	return fmt.Errorf("%s: %s", what, message)
}

func ignoreNotFound(err error) error {
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	return err
}
