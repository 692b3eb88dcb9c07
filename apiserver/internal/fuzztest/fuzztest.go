// Package fuzztest has what the fuzz targets of the apiserver check alike: what an input may
// cost, and how it is refused.
package fuzztest

import (
	"errors"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// maxComputing bounds the processor time of one input, of all threads. What there is to find
// takes minutes.
const maxComputing = 10 * time.Second

// Refused checks that an error is the client's fault, told as clients understand it and in a
// bounded answer.
func Refused(t *testing.T, err error) {
	t.Helper()
	status := (apierrors.APIStatus)(nil)
	if !errors.As(err, &status) {
		t.Fatalf("no status: %v", err)
	}
	if code := status.Status().Code; code < http.StatusBadRequest || code >= http.StatusInternalServerError {
		t.Errorf("code %d: %v", code, err)
	}
	if n := len(err.Error()); n > 512<<10 {
		t.Errorf("an error of %d bytes", n)
	}
	if message := status.Status().Message; !utf8.ValidString(message) { // gRPC cannot carry it
		t.Errorf("no UTF-8: %q", message)
	}
}

// Bounded runs f and checks that it costs no more than an input of size bytes may. Nothing
// else of the process may be busy meanwhile.
func Bounded(t *testing.T, size int, f func()) {
	t.Helper()
	before := computing(t)
	if got, limit := Allocated(f), uint64(size)*2000+32<<20; got > limit {
		t.Errorf("%d bytes are allocated for %d", got, size)
	}
	if took := computing(t) - before; took > maxComputing {
		t.Errorf("%d bytes are computed on for %s", size, took)
	}
}

// Allocated counts the bytes that f allocates.
func Allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// computing is the processor time that the process has used.
func computing(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
