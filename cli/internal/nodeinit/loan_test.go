package nodeinit

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestLoan(t *testing.T) {
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "file"), filepath.Join(dir, "socket")
	if err := os.WriteFile(file, []byte("lent"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil { // left by an earlier process
		t.Fatal(err)
	}
	if _, err := borrowOnce(t.Context(), socket); err == nil {
		t.Fatal("borrowed without a lender")
	}
	l, err := lend(socket, file, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v; only its owner may use it", info.Mode(), err)
	}
	first, err := borrowOnce(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	if content, err := io.ReadAll(first.mounts); err != nil || string(content) != "lent" {
		t.Errorf("got %q, %v", content, err)
	}
	select {
	case <-first.lost:
		t.Error("lost although the lender lives")
	default:
	}
	second, err := borrowOnce(t.Context(), socket)
	if err != nil {
		t.Fatalf("second borrower: %v", err)
	}
	second.close()
	select {
	case <-second.lost:
	case <-time.After(10 * time.Second):
		t.Error("a loan that was given back is not over")
	}
	l.close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := borrowOnce(ctx, socket); err == nil {
		t.Error("borrowed from a lender that has ended")
	}
}
