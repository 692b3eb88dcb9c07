// Package harness is what tests of clusters share: a user who runs commands as a person
// would, with a home directory of their own and nothing else of the caller's; clusters of
// that user on this host; waiting for conditions; requests and writes that go on while
// things break; and what is kept of a test that failed.
//
// Helpers end the test when something is not as it should be, unless they return an error.
// They may be given a *testing.T, or a *T, which says at its end why the test failed.
package harness

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
)

// Root is the repository's directory.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	t.Fatalf("no directory above this test has a go.work: run it inside the repository (%v)", err)
	return ""
}

// Programs is the directory of the programs that are tested: $KIJABI_BIN, or bin.
func Programs(t testing.TB) string {
	t.Helper()
	bin, err := os.Getenv("KIJABI_BIN"), error(nil)
	if bin == "" {
		bin = filepath.Join(Root(t), "bin")
	} else if bin, err = filepath.Abs(bin); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "kijabi")); err != nil {
		t.Fatalf("programs: %v: run `make build` first, or set KIJABI_BIN", err)
	}
	return bin
}

// User runs commands with a home directory of their own, which goes with the test.
type User struct {
	// Bin is the directory of the programs, Root that of the repository, Home that of the
	// user.
	Bin, Root, Home string
	// Limit of a command that names none; 0 means a minute.
	Limit time.Duration
}

// NewUser finds the programs.
func NewUser(t testing.TB) *User {
	t.Helper()
	return &User{Bin: Programs(t), Root: Root(t), Home: t.TempDir()}
}

// Kubeconfig is the file that kijabi writes for the user.
func (u *User) Kubeconfig() string { return filepath.Join(u.Home, ".kijabi", "kubeconfig") }

// AccessDir is where kijabi keeps the user's access to a cluster.
func (u *User) AccessDir(cluster string) string { return filepath.Join(u.Home, ".kijabi", cluster) }

// Identity names the files of the user's certificate for a cluster.
func (u *User) Identity(cluster string) configv1.Identity {
	dir := u.AccessDir(cluster)
	return configv1.Identity{
		CertFile: filepath.Join(dir, "user.crt"), KeyFile: filepath.Join(dir, "user.key"), CAFile: filepath.Join(dir, "ca.crt"),
	}
}

// Masters are the addresses, host and port, of a cluster's gRPC doors that the user knows.
func (u *User) Masters(t testing.TB, cluster string) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(u.AccessDir(cluster), "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	var known struct {
		Masters []struct{ GRPC string }
	}
	if err := json.Unmarshal(content, &known); err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, master := range known.Masters {
		addresses = append(addresses, master.GRPC)
	}
	return addresses
}

// Connect returns a client that talks to any of these masters as the user, until the test
// ends.
func (u *User) Connect(t testing.TB, cluster string, masters []string) *client.Client {
	t.Helper()
	identity, err := pki.OpenIdentity(u.Identity(cluster))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpc.DialAny(rpc.FailoverConfig{Addresses: masters, Identity: identity, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- conn.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("connection to the masters: %v", err)
		}
		_ = conn.Close()
	})
	return client.New(conn)
}

// Try runs kijabi and returns how it ended.
func (u *User) Try(t testing.TB, args ...string) Outcome {
	t.Helper()
	return u.Run(t, u.invocation(args...))
}

// Kijabi runs kijabi, which must succeed, and returns what it prints.
func (u *User) Kijabi(t testing.TB, args ...string) string {
	t.Helper()
	return u.Must(t, u.invocation(args...)).Stdout
}

// Kubectl runs `kijabi kubectl`, which must succeed, and returns what it prints.
func (u *User) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	return u.Kijabi(t, append([]string{"kubectl"}, args...)...)
}

// Feed runs `kijabi kubectl` with input and returns how it ended.
func (u *User) Feed(t testing.TB, input string, args ...string) Outcome {
	t.Helper()
	i := u.invocation(append([]string{"kubectl"}, args...)...)
	i.Input = input
	return u.Run(t, i)
}

// Apply applies manifests given as text, and returns what kubectl prints.
func (u *User) Apply(t testing.TB, manifests string) string {
	t.Helper()
	result := u.Feed(t, manifests, "apply", "-f", "-")
	if result.Code != 0 {
		t.Fatalf("manifests:\n%s\n%s", manifests, result)
	}
	return result.Stdout
}

func (u *User) invocation(args ...string) Invocation {
	return Invocation{Argv: append([]string{filepath.Join(u.Bin, "kijabi")}, args...)}
}
