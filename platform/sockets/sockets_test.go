package sockets_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"kijabi.dev/platform/sockets"
	"kijabi.dev/platform/sockets/socketstest"
)

// program names the variable that makes this test binary the program under test: it
// opens the sockets a-tcp and a-udp at the address the variable holds, tells the
// addresses it got, and answers what it reads until it is killed.
const program = "SOCKETS_TEST_ADDRESS"

func TestMain(m *testing.M) {
	if address := os.Getenv(program); address != "" {
		if err := run(address); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func run(text string) error {
	ctx := context.Background()
	store, err := sockets.Inherit(zap.NewExample())
	if err != nil {
		return err
	}
	if left, ok := os.LookupEnv("LISTEN_FDS"); ok {
		return errors.New("children would see LISTEN_FDS=" + left)
	}
	address := netip.MustParseAddrPort(text)
	stream, err := store.Listen(ctx, "a-tcp", address)
	if err != nil {
		return err
	}
	packets, err := store.ListenPacket(ctx, "a-udp", address)
	if err != nil {
		return err
	}
	store.Close(ctx)
	fmt.Println("serves", stream.Addr(), packets.LocalAddr())
	go func() {
		buffer := make([]byte, 100)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err == nil {
				_, err = packets.WriteTo(buffer[:n], from)
			}
			if err != nil {
				panic(err)
			}
		}
	}()
	for {
		conn, err := stream.Accept()
		if err != nil {
			return err
		}
		_, err = io.Copy(conn, conn)
		if err := errors.Join(err, conn.Close()); err != nil {
			return err
		}
	}
}

// running is a run of the program.
type running struct {
	cmd             *exec.Cmd
	stream, packets string
}

// start starts the program and waits until it serves.
func start(t *testing.T, start func(*exec.Cmd), address string, env ...string) running {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), append(env, program+"="+address)...)
	cmd.Stderr = os.Stderr
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(cmd)
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		t.Log(lines.Text())
		if fields := strings.Fields(lines.Text()); fields[0] == "serves" {
			return running{cmd, fields[1], fields[2]}
		}
	}
	t.Fatalf("the program ended: %v", cmd.Wait())
	return running{}
}

// kill returns when the program has ended.
func (r running) kill(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait() // killed
}

// client sends a question now; the answer may come later.
func client(t *testing.T, network, address string) (answer func() error) {
	t.Helper()
	conn, err := net.Dial(network, address) //nolint:noctx // a test's own socket
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	return func() error {
		defer func() { _ = conn.Close() }()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, len("question")))
		return err
	}
}

func TestQuestionsWaitForTheNextRun(t *testing.T) {
	manager := socketstest.New(t)
	first := start(t, manager.Start, "127.0.0.1:0")
	if got, want := manager.Names(), []string{"a-tcp", "a-udp"}; !slices.Equal(got, want) {
		t.Fatalf("the manager holds %v, want %v", got, want)
	}
	for range 3 {
		first.kill(t)
		var answers []func() error
		for range 5 {
			answers = append(answers, client(t, "tcp", first.stream), client(t, "udp", first.packets))
		}
		next := start(t, manager.Start, "127.0.0.1:0")
		if next.stream != first.stream || next.packets != first.packets {
			t.Fatalf("serves at %s and %s, before at %s and %s", next.stream, next.packets, first.stream, first.packets)
		}
		for _, answer := range answers {
			if err := answer(); err != nil {
				t.Error(err)
			}
		}
		if got := manager.Names(); len(got) != 2 {
			t.Errorf("the manager holds %v", got)
		}
		first = next
	}
	first.kill(t)
}

// TestSocketOfAnotherAddressIsReplaced has the old sockets in the way of the new ones:
// they hold the same port on all addresses.
func TestSocketOfAnotherAddressIsReplaced(t *testing.T) {
	manager := socketstest.New(t)
	first := start(t, manager.Start, "0.0.0.0:0")
	first.kill(t)
	_, port, err := net.SplitHostPort(first.stream)
	if err != nil {
		t.Fatal(err)
	}
	wanted := net.JoinHostPort("127.0.0.1", port)
	second := start(t, manager.Start, wanted)
	if second.stream != wanted || second.packets != wanted {
		t.Errorf("serves at %s and %s, want %s", second.stream, second.packets, wanted)
	}
	if got := manager.Names(); len(got) != 2 {
		t.Errorf("the manager holds %v", got)
	}
	second.kill(t)
}

func TestUnusedSocketsAreGivenUp(t *testing.T) {
	manager := socketstest.New(t)
	start(t, manager.Start, "127.0.0.1:0").kill(t)
	manager.Rename("a-udp", "older-udp")
	start(t, manager.Start, "127.0.0.1:0").kill(t)
	if got, want := manager.Names(), []string{"a-tcp", "a-udp"}; !slices.Equal(got, want) {
		t.Errorf("the manager holds %v, want %v", got, want)
	}
}

func TestWithoutAManager(t *testing.T) {
	plain := func(cmd *exec.Cmd) {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	start(t, plain, "127.0.0.1:0").kill(t)
	// Sockets of a program that has started this one, and kept its variables.
	start(t, plain, "127.0.0.1:0", "LISTEN_FDS=2", "LISTEN_PID=1").kill(t)
	// A manager that is away costs the sockets their life, not the program.
	start(t, plain, "127.0.0.1:0", "NOTIFY_SOCKET=/nonexistent").kill(t)

	var none *sockets.Store
	stream, err := none.Listen(t.Context(), "a", netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	none.Close(t.Context())
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
}

func TestInheritReportsWhatIsWrong(t *testing.T) {
	for _, count := range []string{"many", "-1", "100000"} {
		t.Setenv("LISTEN_FDS", count)
		if _, err := sockets.Inherit(zap.NewNop()); err == nil || !strings.Contains(err.Error(), count) {
			t.Errorf("LISTEN_FDS=%s: %v", count, err)
		}
	}
}
