package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestHoldEndsOnStop(t *testing.T) {
	stop, children := make(chan os.Signal, 1), make(chan os.Signal)
	ended := make(chan struct{})
	go func() { hold(stop, children); close(ended) }()
	children <- syscall.SIGCHLD // received, so hold is running, and does not end it
	select {
	case <-ended:
		t.Fatal("ended although nobody asked")
	default:
	}
	stop <- syscall.SIGTERM
	select {
	case <-ended:
	case <-t.Context().Done():
		t.Fatal("did not end on SIGTERM")
	}
}

func TestReapCollectsZombies(t *testing.T) {
	var children []int
	for range 3 {
		cmd := exec.CommandContext(t.Context(), "true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd.Process.Pid) // nobody waits for it
	}
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, pid := range children {
		for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			reap()
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("process %d is still there", pid)
			}
		}
	}
}
