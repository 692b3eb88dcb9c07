package loops

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/pki"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
	"kijabi.dev/test/harness"
)

// fate is what becomes of a write.
type fate int

const (
	passed     fate = iota
	answerLost      // it is performed, but all connections break before its answer is there
	killAfter       // the program is killed after the write was performed, before the answer
	killBefore      // the program is killed while it waits for a write that is not performed
)

// disturbance is what the proxy does to the program. The zero value does nothing.
type disturbance struct {
	name string
	// lag is how late each message of a watch of the resource is; of "*" for all that are not named.
	lag map[string]time.Duration
	// window is the time for which changes of a watch are gathered; then the newest state of each
	// object is passed on, and those between are never seen.
	window time.Duration
	// fate of the n-th write, from 1, that concerns a scope: a namespace, or an object outside of one.
	fate func(scope string, n int) fate
}

// proxy stands between a program and the apiserver and disturbs what they say to each other.
// It passes messages on as bytes; it looks into requests to write, and into watches that it disturbs.
type proxy struct {
	address string
	up      *grpc.ClientConn
	kill    chan struct{} // has a token when the program is to be killed and started anew

	mu     sync.Mutex
	now    disturbance
	writes map[string]int // of the present disturbance, by scope
	conns  map[net.Conn]struct{}
}

// newProxy stands before the apiserver of a stack, which it dials as component.
func newProxy(t *harness.T, s *stack, component string, port int) *proxy {
	t.Helper()
	client := s.identity(t, component, machine)
	up, err := grpc.NewClient("passthrough:///"+s.at(configv1.PortGRPC),
		grpc.WithTransportCredentials(credentials.NewTLS(client.ClientTLS(pki.APIServerName))),
		grpc.WithUserAgent(component+"/kijabi"),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: s.at(port), up: up, kill: make(chan struct{}, 1), writes: map[string]int{}, conns: map[net.Conn]struct{}{}}
	server := grpc.NewServer(grpc.UnknownServiceHandler(p.serve), grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(64<<20),
		grpc.Creds(credentials.NewTLS(s.identity(t, pki.ComponentAPIServer, machine).ServerTLS(tls.RequireAndVerifyClientCert))))
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(&noting{listener, p}) })
	t.Cleanup(func() {
		server.Stop()
		done.Wait()
		_ = up.Close()
	})
	return p
}

// disturb begins a disturbance, in which writes are counted anew.
func (p *proxy) disturb(d disturbance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.writes = d, map[string]int{}
}

// written is how many writes concerned a scope since disturb.
func (p *proxy) written(scope string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writes[scope]
}

// hangUp breaks all of the program's connections.
func (p *proxy) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// noting remembers connections, so that they can be broken.
type noting struct {
	net.Listener
	p *proxy
}

func (n *noting) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n.p.mu.Lock()
	n.p.conns[conn] = struct{}{}
	n.p.mu.Unlock()
	return &noted{conn, n.p}, nil
}

type noted struct {
	net.Conn
	p *proxy
}

func (n *noted) Close() error {
	n.p.mu.Lock()
	delete(n.p.conns, n.Conn)
	n.p.mu.Unlock()
	return n.Conn.Close()
}

// frame is a message as it travels.
type frame []byte

// rawCodec leaves messages as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*frame))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*frame) = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "proto" }

const objectService = "/kijabi.object.v1.ObjectService/"

func (p *proxy) serve(_ any, in grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(in)
	said, _ := metadata.FromIncomingContext(in.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(in.Context(), said.Copy()))
	defer cancel()
	out, err := p.up.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	switch verb, _ := strings.CutPrefix(method, objectService); verb {
	case "Create", "Update", "Patch", "Delete", "DeleteCollection", "Transact":
		return p.write(in, out, verb)
	case "Watch":
		return p.watch(in, out)
	default:
		return pass(in, out, cancel)
	}
}

// pass passes on whatever both sides say.
func pass(in grpc.ServerStream, out grpc.ClientStream, cancel func()) error {
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			var f frame
			if err := in.RecvMsg(&f); errors.Is(err, io.EOF) {
				_ = out.CloseSend()
				return
			} else if err != nil {
				cancel()
				return
			}
			if out.SendMsg(&f) != nil {
				return // out says why
			}
		}
	})
	for {
		var f frame
		if err := out.RecvMsg(&f); err != nil {
			in.SetTrailer(out.Trailer())
			return orderly(err)
		}
		if err := in.SendMsg(&f); err != nil {
			return err
		}
	}
}

func orderly(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// scopeOf is what a write concerns; empty for one that is not counted: events are written when there is time.
func scopeOf(verb string, request frame) (string, error) {
	var ref *objectv1pb.Reference
	var err error
	switch verb {
	case "Create":
		m := &objectv1pb.CreateRequest{}
		err = proto.Unmarshal(request, m)
		ref = m.GetReference()
	case "Update":
		m := &objectv1pb.UpdateRequest{}
		err = proto.Unmarshal(request, m)
		ref = m.GetReference()
	case "Patch":
		m := &objectv1pb.PatchRequest{}
		err = proto.Unmarshal(request, m)
		ref = m.GetReference()
	case "Delete":
		m := &objectv1pb.DeleteRequest{}
		err = proto.Unmarshal(request, m)
		ref = m.GetReference()
	case "DeleteCollection":
		m := &objectv1pb.DeleteCollectionRequest{}
		err = proto.Unmarshal(request, m)
		ref = &objectv1pb.Reference{Resource: m.GetResource(), Namespace: m.GetNamespace()}
	case "Transact":
		m := &objectv1pb.TransactRequest{}
		err = proto.Unmarshal(request, m)
		if len(m.GetOperations()) > 0 { // a loop writes for one key at a time
			o := m.GetOperations()[0]
			for _, r := range []*objectv1pb.Reference{o.GetCreate().GetReference(), o.GetUpdate().GetReference(), o.GetPatch().GetReference(), o.GetDelete().GetReference()} {
				if r != nil {
					ref = r
				}
			}
		}
	}
	if err != nil || ref.GetResource().GetResource() == "events" {
		return "", err
	}
	if ref.GetNamespace() == "" {
		return ref.GetName(), nil
	}
	return ref.GetNamespace(), nil
}

// write passes a write on, or does worse.
func (p *proxy) write(in grpc.ServerStream, out grpc.ClientStream, verb string) error {
	var request, answer frame
	if err := in.RecvMsg(&request); err != nil {
		return err
	}
	scope, err := scopeOf(verb, request)
	if err != nil {
		return err
	}
	end := passed
	if scope != "" {
		p.mu.Lock()
		p.writes[scope]++
		if p.now.fate != nil {
			end = p.now.fate(scope, p.writes[scope])
		}
		p.mu.Unlock()
	}
	if end == killBefore {
		return p.killed(in)
	}
	if err := errors.Join(out.SendMsg(&request), out.CloseSend()); err != nil {
		return err
	}
	if err := out.RecvMsg(&answer); err != nil {
		in.SetTrailer(out.Trailer())
		return orderly(err)
	}
	switch end {
	case killAfter:
		return p.killed(in)
	case answerLost:
		p.hangUp()
		<-in.Context().Done()
		return status.Error(codes.Unavailable, "the connection broke")
	case passed, killBefore:
	}
	return in.SendMsg(&answer)
}

// killed asks for the program's end and waits until its connection shows it.
func (p *proxy) killed(in grpc.ServerStream) error {
	select {
	case p.kill <- struct{}{}:
	default: // somebody has asked already
	}
	<-in.Context().Done()
	return status.Error(codes.Unavailable, "the program was killed")
}

// said is one message of a watch, or its end.
type said struct {
	message frame
	err     error
	at      time.Time
}

// watch passes a watch on, late or with states left out. Initial objects come as they are.
func (p *proxy) watch(in grpc.ServerStream, out grpc.ClientStream) error {
	var request frame
	if err := in.RecvMsg(&request); err != nil {
		return err
	}
	asked := &objectv1pb.WatchRequest{}
	if err := proto.Unmarshal(request, asked); err != nil {
		return err
	}
	if err := errors.Join(out.SendMsg(&request), out.CloseSend()); err != nil {
		return err
	}
	heard := make(chan said, 1<<14) // more than a test says in a window
	go func() {
		for {
			var f frame
			err := out.RecvMsg(&f)
			select {
			case heard <- said{f, err, time.Now()}:
			case <-in.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	initial := asked.GetSendInitialEvents()
	for next := range heard {
		if next.err != nil {
			return orderly(next.err)
		}
		p.mu.Lock()
		now := p.now
		p.mu.Unlock()
		messages := []frame{next.message}
		if !initial {
			lag, named := now.lag[asked.GetResource().GetResource()]
			if !named {
				lag = now.lag["*"]
			}
			if !sleep(in.Context(), time.Until(next.at.Add(lag))) {
				return in.Context().Err()
			}
			if now.window > 0 {
				if !sleep(in.Context(), now.window) {
					return in.Context().Err()
				}
				for len(heard) > 0 {
					if next = <-heard; next.err != nil {
						break
					}
					messages = append(messages, next.message)
				}
			}
		}
		merged, end, err := newest(messages)
		if err != nil {
			return err
		}
		initial = initial && !end
		if err := in.SendMsg(&merged); err != nil {
			return err
		}
		if next.err != nil {
			return orderly(next.err)
		}
	}
	return nil
}

// sleep returns false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// newest makes one message of several: of each object the last state, and nothing of one that
// came and went. It says also whether the initial objects end with it.
func newest(messages []frame) (frame, bool, error) {
	merged := &objectv1pb.WatchResponse{}
	var order []object.Key
	last, came := map[object.Key]*objectv1pb.WatchEvent{}, map[object.Key]bool{}
	for _, f := range messages {
		m := &objectv1pb.WatchResponse{}
		if err := proto.Unmarshal(f, m); err != nil {
			return nil, false, err
		}
		if len(messages) == 1 {
			return f, m.GetInitialEventsEnd(), nil
		}
		merged.InitialEventsEnd = merged.GetInitialEventsEnd() || m.GetInitialEventsEnd()
		if m.GetProgress() != "" {
			merged.Progress = m.GetProgress()
		}
		for _, event := range m.GetEvents() {
			obj, err := object.Unpack(event.GetObject())
			if err != nil {
				return nil, false, err
			}
			key := object.KeyOf(obj)
			if last[key] == nil {
				came[key] = event.GetType() == objectv1pb.EventType_EVENT_TYPE_ADDED
				order = append(order, key)
			}
			last[key] = event
		}
	}
	for _, key := range order {
		if event := last[key]; !came[key] || event.GetType() != objectv1pb.EventType_EVENT_TYPE_DELETED {
			merged.Events = append(merged.Events, event)
		}
	}
	merged.Events = slices.Clip(merged.Events)
	f, err := proto.Marshal(merged)
	return f, merged.GetInitialEventsEnd(), err
}
