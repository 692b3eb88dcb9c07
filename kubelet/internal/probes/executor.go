package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1pb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxOutput bounds what is kept of a probe's output, bytes.
const maxOutput = 10 << 10

// Exec runs a command in a container.
type Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) (output []byte, exitCode int32, err error)

// Network is the Executor that reaches containers over the pod network and, for
// commands, through the runtime.
type Network struct {
	exec   Exec
	client *http.Client
}

var _ Executor = (*Network)(nil)

// NewNetwork returns an executor.
func NewNetwork(exec Exec) *Network {
	return &Network{exec: exec, client: &http.Client{
		Transport: &http.Transport{
			// A probe proves that the container accepts and that its certificate is its own affair.
			DisableKeepAlives: true, DisableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as the API promises
			DialContext:     (&net.Dialer{}).DialContext,
		},
		// A redirect answers the question; following it could lead anywhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Probe implements Executor.
func (n *Network) Probe(ctx context.Context, probe *corev1.Probe, target Target) (bool, string, error) {
	switch {
	case probe.Exec != nil:
		timeout := time.Second
		if deadline, ok := ctx.Deadline(); ok {
			timeout = time.Until(deadline)
		}
		output, code, err := n.exec(ctx, target.ContainerID, probe.Exec.Command, timeout)
		if err != nil {
			return false, "", err
		}
		return code == 0, string(output[:min(len(output), maxOutput)]), nil
	case probe.HTTPGet != nil:
		return n.HTTPGet(ctx, probe.HTTPGet, target)
	case probe.TCPSocket != nil:
		port, err := portNumber(probe.TCPSocket.Port, target.Container)
		if err != nil {
			return false, "", err
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(orElse(probe.TCPSocket.Host, target.PodIP), port))
		if err != nil {
			return false, "", err
		}
		return true, "", conn.Close()
	case probe.GRPC != nil:
		return grpcHealth(ctx, probe.GRPC, target)
	}
	return false, "", errors.New("the probe has no action")
}

// HTTPGet sends one request; every status from 200 to 399 is a success.
func (n *Network) HTTPGet(ctx context.Context, action *corev1.HTTPGetAction, target Target) (bool, string, error) {
	port, err := portNumber(action.Port, target.Container)
	if err != nil {
		return false, "", err
	}
	path, query, _ := strings.Cut(action.Path, "?")
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	address := url.URL{Scheme: "http", Host: net.JoinHostPort(orElse(action.Host, target.PodIP), port), RawQuery: query}
	if decoded, err := url.PathUnescape(path); err == nil {
		address.Path, address.RawPath = decoded, path
	} else {
		address.Path = path
	}
	if action.Scheme == corev1.URISchemeHTTPS {
		address.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return false, "", err
	}
	request.Header.Set("User-Agent", "kube-probe/kijabi")
	request.Header.Set("Accept", "*/*")
	for _, header := range action.HTTPHeaders {
		if strings.EqualFold(header.Name, "host") {
			request.Host = header.Value
			continue
		}
		request.Header.Add(header.Name, header.Value)
	}
	response, err := n.client.Do(request)
	if err != nil {
		return false, "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxOutput))
	if response.StatusCode < http.StatusOK || response.StatusCode >= http.StatusBadRequest {
		return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", response.StatusCode), nil
	}
	return true, string(body), nil
}

func grpcHealth(ctx context.Context, action *corev1.GRPCAction, target Target) (bool, string, error) {
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(target.PodIP, strconv.Itoa(int(action.Port))),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/kijabi"), grpc.WithNoProxy())
	if err != nil {
		return false, "", err
	}
	defer func() { _ = conn.Close() }()
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	response, err := healthv1pb.NewHealthClient(conn).Check(ctx, &healthv1pb.HealthCheckRequest{Service: service})
	if err != nil {
		return false, "", err
	}
	return response.GetStatus() == healthv1pb.HealthCheckResponse_SERVING, "service status: " + response.GetStatus().String(), nil
}

func portNumber(port intstr.IntOrString, c *corev1.Container) (string, error) {
	if port.Type == intstr.Int {
		return strconv.Itoa(int(port.IntVal)), nil
	}
	for i := range c.Ports {
		if c.Ports[i].Name == port.StrVal {
			return strconv.Itoa(int(c.Ports[i].ContainerPort)), nil
		}
	}
	if _, err := strconv.ParseUint(port.StrVal, 10, 16); err == nil {
		return port.StrVal, nil
	}
	return "", fmt.Errorf("container %s has no port named %q", c.Name, port.StrVal)
}

func orElse(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
