// Command pause holds a pod's namespaces open. It is process 1 of a pod sandbox:
// it sleeps until told to stop, and reaps the orphans of containers that share its
// process namespace, so that they do not pile up as zombies.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// SIGCHLD may be merged while the channel is full, which loses nothing: reap
	// collects every child there is. A stop signal must never be dropped, so it has
	// a channel of its own. Process 1 is not ended by a signal it does not handle.
	stop, children := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	signal.Notify(children, syscall.SIGCHLD)
	reap() // those that died before the handler was there
	hold(stop, children)
}

// hold returns when the first signal to stop arrives.
func hold(stop, children <-chan os.Signal) {
	for {
		select {
		case <-stop:
			return
		case <-children:
			reap()
		}
	}
}

// reap collects every child that has ended, without waiting for those that have not.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
