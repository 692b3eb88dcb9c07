package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/platform/lifecycle"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

const (
	streamIdleTimeout     = 4 * time.Hour
	streamCreationTimeout = 30 * time.Second
	chunkBytes            = 32 << 10
)

// process is a running command or container at the far end, over either of the
// kubelet's two calls. Sending is safe from several goroutines, receiving from one.
type process interface {
	stdin(data []byte) error
	stdinClose() error
	resize(size *kubeletv1pb.TerminalSize) error
	// receive returns the next output or, at the end, the exit code with io.EOF.
	receive() (stdout, stderr []byte, code int32, err error)
}

// opener starts the far end.
type opener func(ctx context.Context) (process, error)

// streamOptions are the same four switches for exec and attach.
func streamOptions(query url.Values) (*remotecommand.Options, error) {
	opts := &remotecommand.Options{
		Stdin: isTrue(query.Get("stdin")), Stdout: isTrue(query.Get("stdout")),
		Stderr: isTrue(query.Get("stderr")), TTY: isTrue(query.Get("tty")),
	}
	if opts.TTY {
		opts.Stderr = false // a terminal has one output
	}
	if !opts.Stdin && !opts.Stdout && !opts.Stderr {
		return nil, apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr")
	}
	return opts, nil
}

func (s *Server) serveExec(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	query := r.URL.Query()
	opts, err := streamOptions(query)
	if err != nil {
		return err
	}
	if len(query["command"]) == 0 {
		return apierrors.NewBadRequest("you must specify a command")
	}
	place, container, err := s.streamTarget(r, caller, t)
	if err != nil {
		return err
	}
	return serveProcess(w, r, opts, func(ctx context.Context) (process, error) {
		stream, err := place.kubelet.Exec(ctx)
		if err != nil {
			return nil, kubeletError(err)
		}
		start := &kubeletv1pb.ExecStart{
			Target: place.target(container), Caller: place.caller, Command: query["command"],
			Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Tty: opts.TTY,
		}
		p := &execProcess{stream: stream}
		return p, p.send(&kubeletv1pb.ExecRequest{Message: &kubeletv1pb.ExecRequest_Start{Start: start}})
	})
}

func (s *Server) serveAttach(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target) error {
	opts, err := streamOptions(r.URL.Query())
	if err != nil {
		return err
	}
	place, container, err := s.streamTarget(r, caller, t)
	if err != nil {
		return err
	}
	return serveProcess(w, r, opts, func(ctx context.Context) (process, error) {
		stream, err := place.kubelet.Attach(ctx)
		if err != nil {
			return nil, kubeletError(err)
		}
		start := &kubeletv1pb.AttachStart{
			Target: place.target(container), Caller: place.caller,
			Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, Tty: opts.TTY,
		}
		p := &attachProcess{stream: stream}
		return p, p.send(&kubeletv1pb.AttachRequest{Message: &kubeletv1pb.AttachRequest_Start{Start: start}})
	})
}

func (s *Server) streamTarget(r *http.Request, caller registry.Caller, t target) (podOnNode, string, error) {
	if !httpstream.IsUpgradeRequest(r) {
		return podOnNode{}, "", apierrors.NewBadRequest("Upgrade request required")
	}
	place, err := s.findPod(r.Context(), caller, t)
	if err != nil {
		return place, "", err
	}
	container, err := chooseContainer(place.pod, r.URL.Query().Get("container"))
	return place, container, err
}

// serveProcess upgrades the connection and joins it to the process. The answer to the
// client, success or not, travels on the upgraded connection.
func serveProcess(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, open opener) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	group := lifecycle.NewGroup(ctx)
	defer func() { _ = group.Wait() }() // the connection is closed by then
	defer group.Cancel()
	// The library would log the end of every connection as an error.
	r = r.WithContext(klog.NewContext(group.Context(), logr.Discard()))
	watched := &watchedWriter{ResponseWriter: w, cancel: cancel}
	if wsstream.IsWebSocketRequest(r) {
		serveProcessWebSocket(watched, r, opts, group, open)
		return nil
	}
	bridge := &spdyBridge{group: group, open: open}
	remotecommand.ServeExec(watched, r, bridge, "", "", "", nil, opts, streamIdleTimeout, streamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	return nil
}

// spdyBridge lets the streaming library's SPDY server run a process.
type spdyBridge struct {
	group *lifecycle.Group
	open  opener
}

// ExecInContainer implements remotecommand.Executor.
func (b *spdyBridge) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	code, err := join(ctx, b.group, b.open, in, out, errOut, resize)
	if err == nil && code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: int(code)}
	}
	return err
}

// join copies between the client's streams and the process until the process ends.
// What reads from the client goes on in the group until the connection is closed.
func join(ctx context.Context, group *lifecycle.Group, open opener, in io.Reader, out, errOut io.Writer, resize <-chan remotecommand.TerminalSize) (int32, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := open(ctx)
	if err != nil {
		return 0, err
	}
	if in != nil {
		group.Go(func(context.Context) error {
			_, _ = io.CopyBuffer(stdinWriter{p}, in, make([]byte, chunkBytes)) // the receiving side reports
			_ = p.stdinClose()
			return nil
		})
	}
	if resize != nil {
		group.Go(func(context.Context) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case size, ok := <-resize:
					if !ok {
						return nil
					}
					_ = p.resize(&kubeletv1pb.TerminalSize{Width: uint32(size.Width), Height: uint32(size.Height)})
				}
			}
		})
	}
	for {
		stdout, stderr, code, err := p.receive()
		switch {
		case errors.Is(err, io.EOF):
			return code, nil
		case err != nil:
			return 0, kubeletError(err)
		}
		if err := writeOutput(out, stdout); err != nil {
			return 0, err
		}
		if err := writeOutput(errOut, stderr); err != nil {
			return 0, err
		}
	}
}

func writeOutput(w io.Writer, data []byte) error {
	if len(data) == 0 || w == nil {
		return nil
	}
	_, err := w.Write(data)
	return err
}

type stdinWriter struct{ process }

func (w stdinWriter) Write(data []byte) (int, error) {
	if err := w.stdin(data); err != nil {
		return 0, err
	}
	return len(data), nil
}

// serveProcessWebSocket speaks the channel protocols: v5 (streams can be closed), v4
// (Status at the end) and the older ones (text at the end), binary or base64.
func serveProcessWebSocket(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, group *lifecycle.Group, open opener) {
	channel := func(wanted bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	channels := []wsstream.ChannelType{
		remotecommand.StreamStdIn:  channel(opts.Stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: channel(opts.Stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: channel(opts.Stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
	protocols := map[string]wsstream.ChannelProtocolConfig{}
	for _, name := range []string{"", remotecommand.StreamProtocolV1Name, remotecommand.StreamProtocolV4Name, remotecommand.StreamProtocolV5Name} {
		protocols[name] = wsstream.ChannelProtocolConfig{Binary: true, Channels: channels}
	}
	for _, name := range []string{wsstream.Base64ChannelWebSocketProtocol, "v4." + wsstream.Base64ChannelWebSocketProtocol} {
		protocols[name] = wsstream.ChannelProtocolConfig{Binary: false, Channels: channels}
	}
	conn := wsstream.NewConn(protocols)
	conn.SetIdleTimeout(streamIdleTimeout)
	protocol, streams, err := conn.Open(w, r)
	if err != nil {
		return // the library has answered
	}
	defer func() { _ = conn.Close() }()
	defer closeWith(r.Context(), conn)()
	// An empty message tells the client that the connection stands.
	first := remotecommand.StreamErr
	if opts.Stdout {
		first = remotecommand.StreamStdOut
	}
	_, _ = streams[first].Write([]byte{})

	sizes := make(chan remotecommand.TerminalSize)
	group.Go(func(ctx context.Context) error {
		decoder := json.NewDecoder(streams[remotecommand.StreamResize])
		for {
			var size remotecommand.TerminalSize
			if decoder.Decode(&size) != nil {
				return nil
			}
			select {
			case sizes <- size:
			case <-ctx.Done():
				return nil
			}
		}
	})
	var in io.Reader
	if opts.Stdin {
		in = streams[remotecommand.StreamStdIn]
	}
	code, err := join(r.Context(), group, open, in, streams[remotecommand.StreamStdOut], streams[remotecommand.StreamStdErr], sizes)
	status := exitStatus(code, err)
	switch protocol {
	case "", remotecommand.StreamProtocolV1Name, wsstream.Base64ChannelWebSocketProtocol:
		if status.Message != "" {
			_, _ = io.WriteString(streams[remotecommand.StreamErr], status.Message)
		}
	default:
		status.Kind, status.APIVersion = "Status", "v1"
		if data, err := json.Marshal(&status); err == nil {
			_, _ = streams[remotecommand.StreamErr].Write(data)
		}
	}
}

type execProcess struct {
	mu     sync.Mutex // one sender at a time
	stream kubeletv1pb.KubeletService_ExecClient
}

func (p *execProcess) send(m *kubeletv1pb.ExecRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stream.Send(m)
}

func (p *execProcess) stdin(data []byte) error {
	return p.send(&kubeletv1pb.ExecRequest{Message: &kubeletv1pb.ExecRequest_Stdin{Stdin: data}})
}

func (p *execProcess) stdinClose() error {
	return p.send(&kubeletv1pb.ExecRequest{Message: &kubeletv1pb.ExecRequest_StdinClose{StdinClose: true}})
}

func (p *execProcess) resize(size *kubeletv1pb.TerminalSize) error {
	return p.send(&kubeletv1pb.ExecRequest{Message: &kubeletv1pb.ExecRequest_Resize{Resize: size}})
}

func (p *execProcess) receive() (stdout, stderr []byte, code int32, err error) {
	m, err := p.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, nil, 0, errors.New("the node ended the command's stream without an exit code")
	}
	if err != nil {
		return nil, nil, 0, err
	}
	if exit, ok := m.GetMessage().(*kubeletv1pb.ExecResponse_ExitCode); ok {
		return nil, nil, exit.ExitCode, io.EOF
	}
	return m.GetStdout(), m.GetStderr(), 0, nil
}

type attachProcess struct {
	mu     sync.Mutex // one sender at a time
	stream kubeletv1pb.KubeletService_AttachClient
}

func (p *attachProcess) send(m *kubeletv1pb.AttachRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stream.Send(m)
}

func (p *attachProcess) stdin(data []byte) error {
	return p.send(&kubeletv1pb.AttachRequest{Message: &kubeletv1pb.AttachRequest_Stdin{Stdin: data}})
}

func (p *attachProcess) stdinClose() error {
	return p.send(&kubeletv1pb.AttachRequest{Message: &kubeletv1pb.AttachRequest_StdinClose{StdinClose: true}})
}

func (p *attachProcess) resize(size *kubeletv1pb.TerminalSize) error {
	return p.send(&kubeletv1pb.AttachRequest{Message: &kubeletv1pb.AttachRequest_Resize{Resize: size}})
}

func (p *attachProcess) receive() (stdout, stderr []byte, code int32, err error) {
	m, err := p.stream.Recv()
	return m.GetStdout(), m.GetStderr(), 0, err
}
