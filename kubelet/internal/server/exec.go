package server

import (
	"context"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/kubelet/internal/runtime"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// input is one message to a process; Exec and Attach have the same ones.
type input interface {
	GetStdin() []byte
	GetStdinClose() bool
	GetResize() *kubeletv1pb.TerminalSize
}

// Exec implements KubeletService.
func (s *Service) Exec(stream kubeletv1pb.KubeletService_ExecServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil || len(start.GetCommand()) == 0 {
		return apierrors.NewBadRequest("the first message must carry start with a command")
	}
	s.audit("exec", start.GetCaller(), start.GetTarget())
	container, err := s.running(ctx, start.GetTarget())
	if err != nil {
		return err
	}
	var mu sync.Mutex // a stream takes one sender at a time
	send := func(message *kubeletv1pb.ExecResponse) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(message)
	}
	options := runtime.StreamOptions{TTY: start.GetTty()}
	if start.GetStdout() {
		options.Stdout = sender(func(data []byte) error {
			return send(&kubeletv1pb.ExecResponse{Message: &kubeletv1pb.ExecResponse_Stdout{Stdout: data}})
		})
	}
	if start.GetStderr() && !start.GetTty() {
		options.Stderr = sender(func(data []byte) error {
			return send(&kubeletv1pb.ExecResponse{Message: &kubeletv1pb.ExecResponse_Stderr{Stderr: data}})
		})
	}
	feed(ctx, cancel, &options, start.GetStdin(), func() (input, error) { return stream.Recv() })
	code, err := s.cfg.Runtime.Exec(ctx, container.ID, start.GetCommand(), options)
	if err != nil {
		return err
	}
	return send(&kubeletv1pb.ExecResponse{Message: &kubeletv1pb.ExecResponse_ExitCode{ExitCode: code}})
}

// Attach implements KubeletService.
func (s *Service) Attach(stream kubeletv1pb.KubeletService_AttachServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return apierrors.NewBadRequest("the first message must carry start")
	}
	s.audit("attach", start.GetCaller(), start.GetTarget())
	container, err := s.running(ctx, start.GetTarget())
	if err != nil {
		return err
	}
	var mu sync.Mutex
	send := func(message *kubeletv1pb.AttachResponse) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(message)
	}
	options := runtime.StreamOptions{TTY: start.GetTty()}
	if start.GetStdout() {
		options.Stdout = sender(func(data []byte) error {
			return send(&kubeletv1pb.AttachResponse{Message: &kubeletv1pb.AttachResponse_Stdout{Stdout: data}})
		})
	}
	if start.GetStderr() && !start.GetTty() {
		options.Stderr = sender(func(data []byte) error {
			return send(&kubeletv1pb.AttachResponse{Message: &kubeletv1pb.AttachResponse_Stderr{Stderr: data}})
		})
	}
	feed(ctx, cancel, &options, start.GetStdin(), func() (input, error) { return stream.Recv() })
	return s.cfg.Runtime.Attach(ctx, container.ID, options)
}

// feed reads a stream's messages into standard input and terminal sizes. When the
// caller is gone the command's streams end. The reader ends with the RPC.
func feed(ctx context.Context, cancel context.CancelFunc, options *runtime.StreamOptions, stdin bool, receive func() (input, error)) {
	reader, writer := io.Pipe()
	if stdin {
		options.Stdin = reader
	}
	sizes := make(chan runtime.TerminalSize, 1)
	options.Resize = sizes
	context.AfterFunc(ctx, func() { _ = reader.CloseWithError(io.ErrClosedPipe) })
	var group errgroup.Group
	group.Go(func() error {
		defer close(sizes)
		for {
			message, err := receive()
			if err != nil {
				_ = writer.CloseWithError(eof(err))
				if eof(err) != nil {
					cancel()
				}
				return nil
			}
			if size := message.GetResize(); size != nil {
				select {
				case <-sizes: // only the newest size matters
				default:
				}
				select {
				case sizes <- runtime.TerminalSize{Width: uint16(size.GetWidth()), Height: uint16(size.GetHeight())}:
				default:
				}
			}
			if message.GetStdinClose() {
				_ = writer.Close()
			}
			if data := message.GetStdin(); len(data) > 0 && stdin {
				if _, err := writer.Write(data); err != nil {
					continue // the command does not read any more; sizes may still come
				}
			}
		}
	})
}
