package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"kijabi.dev/kubelet/internal/runtime"
)

// The streaming protocol between a runtime and its clients: header names and
// values of the runtime's own little HTTP server, which listens on loopback.
const (
	headerStreamType  = "streamType"
	headerPort        = "port"
	headerRequestID   = "requestID"
	commandProtocol   = "v4.channel.k8s.io"
	forwardProtocol   = "portforward.k8s.io"
	reasonNonZeroExit = "NonZeroExitCode"
	causeExitCode     = "ExitCode"
)

// ExecSync implements runtime.Streams.
func (c *Client) ExecSync(ctx context.Context, id string, command []string, timeout time.Duration) ([]byte, int32, error) {
	request := &criv1.ExecSyncRequest{ContainerId: id, Cmd: command}
	if timeout > 0 {
		request.Timeout = int64((timeout + time.Second - 1) / time.Second)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+quickCall)
		defer cancel()
	}
	response, err := c.runtimes.ExecSync(ctx, request)
	if err != nil {
		return nil, 0, translate("exec in container "+id, err)
	}
	return append(response.GetStdout(), response.GetStderr()...), response.GetExitCode(), nil
}

// Exec implements runtime.Streams.
func (c *Client) Exec(ctx context.Context, id string, command []string, streams runtime.StreamOptions) (int32, error) {
	response, err := c.runtimes.Exec(ctx, &criv1.ExecRequest{
		ContainerId: id, Cmd: command, Tty: streams.TTY,
		Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil && !streams.TTY,
	})
	if err != nil {
		return 0, translate("exec in container "+id, err)
	}
	return command4(ctx, response.GetUrl(), streams)
}

// Attach implements runtime.Streams.
func (c *Client) Attach(ctx context.Context, id string, streams runtime.StreamOptions) error {
	response, err := c.runtimes.Attach(ctx, &criv1.AttachRequest{
		ContainerId: id, Tty: streams.TTY,
		Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil && !streams.TTY,
	})
	if err != nil {
		return translate("attach to container "+id, err)
	}
	_, err = command4(ctx, response.GetUrl(), streams)
	return err
}

// PortForward implements runtime.Streams.
func (c *Client) PortForward(ctx context.Context, sandboxID string, port uint32, conn io.ReadWriteCloser) error {
	response, err := c.runtimes.PortForward(ctx, &criv1.PortForwardRequest{PodSandboxId: sandboxID, Port: []int32{int32(port)}})
	if err != nil {
		return translate("forward to sandbox "+sandboxID, err)
	}
	connection, err := connect(ctx, response.GetUrl(), forwardProtocol)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()
	headers := http.Header{}
	headers.Set(headerPort, strconv.FormatUint(uint64(port), 10))
	headers.Set(headerRequestID, "0")
	headers.Set(headerStreamType, "error")
	failures, err := connection.CreateStream(headers)
	if err != nil {
		return fmt.Errorf("forward port %d: error stream: %w", port, err)
	}
	_ = failures.Close() // it is read only
	headers.Set(headerStreamType, "data")
	data, err := connection.CreateStream(headers)
	if err != nil {
		return fmt.Errorf("forward port %d: data stream: %w", port, err)
	}
	var group errgroup.Group
	group.Go(func() error { // ends when the caller closes conn below
		_, _ = io.Copy(data, conn)
		return data.Close()
	})
	_, copyErr := io.Copy(conn, data)
	message, _ := io.ReadAll(failures)
	_ = conn.Close()
	_ = data.Reset()
	_ = group.Wait()
	if len(message) > 0 {
		return fmt.Errorf("forward port %d: %s", port, message)
	}
	if copyErr != nil && ctx.Err() == nil {
		return fmt.Errorf("forward port %d: %w", port, copyErr)
	}
	return nil
}

func connect(ctx context.Context, url, protocol string) (httpstream.Connection, error) {
	tripper, err := spdy.NewRoundTripper(nil)
	if err != nil {
		return nil, fmt.Errorf("streaming connection: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return nil, fmt.Errorf("streaming connection: %w", err)
	}
	request.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	response, err := tripper.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("streaming connection: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	connection, err := tripper.NewConnection(response)
	if err != nil {
		return nil, fmt.Errorf("streaming connection: %w", err)
	}
	return connection, nil
}

// command4 runs version 4 of the command protocol: one stream each for errors,
// sizes and the three standard streams; the error stream ends with a Status.
func command4(ctx context.Context, url string, streams runtime.StreamOptions) (int32, error) {
	connection, err := connect(ctx, url, commandProtocol)
	if err != nil {
		return 0, err
	}
	defer func() { _ = connection.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()

	open := func(kind string) (httpstream.Stream, error) {
		headers := http.Header{}
		headers.Set(headerStreamType, kind)
		stream, err := connection.CreateStream(headers)
		if err != nil {
			return nil, fmt.Errorf("open %s stream: %w", kind, err)
		}
		return stream, nil
	}
	failures, err := open("error")
	if err != nil {
		return 0, err
	}
	var outputs errgroup.Group
	if streams.Stdin != nil {
		stdin, err := open("stdin")
		if err != nil {
			return 0, err
		}
		var input errgroup.Group // not waited for: the reader may block until the caller's stream ends
		input.Go(func() error {
			_, _ = io.Copy(stdin, streams.Stdin)
			return stdin.Close()
		})
	}
	if streams.Stdout != nil {
		stdout, err := open("stdout")
		if err != nil {
			return 0, err
		}
		outputs.Go(func() error { _, err := io.Copy(streams.Stdout, stdout); return err })
	}
	if streams.Stderr != nil && !streams.TTY {
		stderr, err := open("stderr")
		if err != nil {
			return 0, err
		}
		outputs.Go(func() error { _, err := io.Copy(streams.Stderr, stderr); return err })
	}
	if streams.TTY && streams.Resize != nil {
		resize, err := open("resize")
		if err != nil {
			return 0, err
		}
		var sizes errgroup.Group // ends with the channel or with the connection
		sizes.Go(func() error {
			encoder := json.NewEncoder(resize)
			for {
				select {
				case size, ok := <-streams.Resize:
					if !ok {
						return nil
					}
					if err := encoder.Encode(size); err != nil {
						return err
					}
				case <-connection.CloseChan():
					return nil
				}
			}
		})
	}
	message, readErr := io.ReadAll(failures)
	if readErr != nil && ctx.Err() == nil {
		return 0, fmt.Errorf("command streams: %w", readErr)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	_ = outputs.Wait()
	return exitCode(message)
}

func exitCode(message []byte) (int32, error) {
	if len(message) == 0 {
		return 0, nil
	}
	var result metav1.Status
	if err := json.Unmarshal(message, &result); err != nil {
		return 0, fmt.Errorf("command ended with %q", message)
	}
	if result.Status == metav1.StatusSuccess {
		return 0, nil
	}
	if result.Reason == reasonNonZeroExit && result.Details != nil {
		for _, cause := range result.Details.Causes {
			if cause.Type == causeExitCode {
				code, err := strconv.ParseInt(cause.Message, 10, 32)
				if err != nil {
					return 0, fmt.Errorf("exit code %q: %w", cause.Message, err)
				}
				return int32(code), nil
			}
		}
	}
	return 0, errors.New(result.Message)
}
