package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/sockets"
)

// echoVariable makes this test binary a unit's program, which answers over TCP and UDP.
const echoVariable = "SUPERVISOR_TEST_ECHO"

func TestMain(m *testing.M) {
	if os.Getenv(echoVariable) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := echo(ctx); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// echo serves until ctx ends, and then finishes what it has begun to read.
func echo(ctx context.Context) error {
	store, err := sockets.Inherit(zap.NewExample())
	if err != nil {
		return err
	}
	address := netip.MustParseAddrPort("127.0.0.1:0")
	stream, err := store.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	packets, err := store.ListenPacket(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _, _ = stream.SetDeadline(time.Unix(1, 0)), packets.SetReadDeadline(time.Unix(1, 0)) })()
	fmt.Println("serves", stream.Addr(), packets.LocalAddr())
	ended := func(err error) error {
		if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return err
	}
	return lifecycle.RunAll(ctx, func(context.Context) error {
		for {
			conn, err := stream.Accept()
			if err != nil {
				return ended(err)
			}
			_, err = io.CopyN(conn, conn, questionSize)
			if err := errors.Join(err, conn.Close()); err != nil {
				return err
			}
		}
	}, func(context.Context) error {
		buffer := make([]byte, questionSize)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return ended(err)
			}
			if _, err := packets.WriteTo(buffer[:n], from); err != nil {
				return err
			}
		}
	})
}

const questionSize = 8

func echoUnit(max int) string {
	return fmt.Sprintf("exec: [%q]\nenv: [%s=1]\nfileDescriptorStoreMax: %d\n", os.Args[0], echoVariable, max)
}

// served waits for the nth run of the unit and returns its addresses.
func (b *bench) served(unit string, nth int) (stream, packets string) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("run %d of %s", nth, unit), func() error {
		seen := 0
		for line := range strings.Lines(b.log(unit)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "serves" {
				if seen++; seen == nth {
					stream, packets = fields[1], fields[2]
					return nil
				}
			}
		}
		return fmt.Errorf("log: %s", b.log(unit))
	})
	return stream, packets
}

func (b *bench) kill(unit string) {
	b.t.Helper()
	if err := unix.Kill(b.must(Status, unit)[0].PID, unix.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
}

// exchange asks one question and waits for its answer.
func exchange(network, address string) error {
	conn, err := net.DialTimeout(network, address, 10*time.Second) //nolint:noctx // a test's own socket
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(make([]byte, questionSize)); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, questionSize))
	return err
}

// TestRestartsLoseNoQuestion restarts and kills a program ten times, under questions.
func TestRestartsLoseNoQuestion(t *testing.T) {
	b := newBench(t, map[string]string{"echo": echoUnit(4)})
	stream, packets := b.served("echo", 1)

	var answered [2]atomic.Int64
	// While it is held no question is under way: what a process has read dies with it.
	var quiet sync.RWMutex
	asking, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	t.Cleanup(func() { stop(); clients.Wait() })
	for i, address := range []string{stream, packets} {
		network := []string{"tcp", "udp"}[i]
		for range 3 {
			clients.Go(func() {
				for tick := time.NewTicker(3 * time.Millisecond); ; {
					select {
					case <-asking.Done():
						tick.Stop()
						return
					case <-tick.C:
					}
					quiet.RLock()
					err := exchange(network, address)
					quiet.RUnlock()
					if err != nil {
						t.Errorf("question over %s: %v", network, err)
						continue
					}
					answered[i].Add(1)
				}
			})
		}
	}
	for run := range 10 {
		before := [2]int64{answered[0].Load(), answered[1].Load()}
		b.eventually("answers", func() error {
			for i := range before {
				if now := answered[i].Load(); now < before[i]+5 {
					return fmt.Errorf("%d of socket %d, before %d", now, i, before[i])
				}
			}
			return nil
		})
		if run%2 == 0 {
			b.must(Restart, "echo")
		} else {
			quiet.Lock()
			b.kill("echo")
			quiet.Unlock()
		}
		if nextStream, nextPackets := b.served("echo", run+2); nextStream != stream || nextPackets != packets {
			t.Errorf("run %d serves at %s and %s, the first at %s and %s", run+2, nextStream, nextPackets, stream, packets)
		}
	}
	stop()
	clients.Wait()
	t.Logf("answered: %d over TCP, %d over UDP", answered[0].Load(), answered[1].Load())

	b.must(Stop, "echo")
	for network, address := range map[string]string{"tcp": stream, "udp": packets} {
		if err := exchange(network, address); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a question over %s to a stopped unit: %v, want it refused", network, err)
		}
	}
}

func TestStoreIsBounded(t *testing.T) {
	b := newBench(t, map[string]string{"one": echoUnit(1), "none": echoUnit(0)})
	for unit, kept := range map[string]bool{"one": true, "none": false} {
		stream, packets := b.served(unit, 1)
		b.kill(unit)
		nextStream, nextPackets := b.served(unit, 2)
		if got := nextStream == stream; got != kept {
			t.Errorf("%s: the first socket was kept: %t, want %t", unit, got, kept)
		}
		if nextPackets == packets {
			t.Errorf("%s: the second socket was kept", unit)
		}
	}
}

// TestStoreIsForUnits sends a descriptor from a process that is no unit's.
func TestStoreIsForUnits(t *testing.T) {
	b := newBench(t, map[string]string{"echo": echoUnit(4)})
	b.served("echo", 1)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(conn) }()
	to := &unix.SockaddrUnix{Name: filepath.Join(filepath.Dir(b.socket), notifySocket)}
	if err := unix.Sendmsg(conn, []byte("FDSTORE=1\nFDNAME=tcp"), unix.UnixRights(int(writer.Fd())), to, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writer.Close(), reader.SetReadDeadline(time.Now().Add(10*time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the descriptor is still open: %v", err)
	}
}
