package datadir

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain plays a process that locks what it is given and holds it until its input ends.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 || os.Args[1] != "hold" {
		os.Exit(m.Run())
	}
	_, err := Lock(os.Args[2:]...)
	fmt.Println(err)
	_, _ = os.Stdin.Read(make([]byte, 1))
}

func TestOneProcess(t *testing.T) {
	a, b, c := filepath.Join(t.TempDir(), "a"), t.TempDir(), t.TempDir()
	other := exec.CommandContext(t.Context(), os.Args[0], "hold", a, b)
	input, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 100)
	if n, err := output.Read(said); err != nil || string(said[:n]) != "<nil>\n" {
		t.Fatalf("the other process: %s: %v", said[:n], err)
	}
	for _, dirs := range [][]string{{a}, {c, b}} {
		_, err := Lock(dirs...)
		for _, part := range []string{dirs[len(dirs)-1], fmt.Sprintf("process %d (datadir.test)", other.Process.Pid), "stop that one first"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v: %v, want %q", dirs, err, part)
			}
		}
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = input, other.Wait()
	release, err := Lock(a, b, c) // c was not kept
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(b); err == nil || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("twice in one process: %v", err)
	}
	release()
	release, err = Lock(b)
	if err != nil {
		t.Fatal(err)
	}
	release()
}
