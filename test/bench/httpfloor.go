package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

const httpFloorCommand = "http-floor"

// serveFloor is the floor of lists: a server of net/http, in a process of its own, that has
// its answers ready and only sends them, by HTTP/2 over TLS 1.3. It prints its address and
// ends with its input.
func serveFloor() error {
	piece := make([]byte, 256<<10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		left, err := strconv.Atoi(r.URL.Query().Get("bytes"))
		for err == nil && left > 0 {
			n := min(left, len(piece))
			_, err = w.Write(piece[:n])
			left -= n
		}
	}))
	server.EnableHTTP2, server.TLS = true, &tls.Config{MinVersion: tls.VersionTLS13}
	server.StartTLS()
	defer server.Close()
	fmt.Println(server.URL)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// httpFloor starts the floor's server and returns a door to it; end ends both.
func httpFloor(ctx context.Context) (d *restDoor, end func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self, httpFloorCommand)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	d = &restDoor{title: "plain HTTPS server"}
	end = func() {
		d.close()
		_ = in.Close()
		_ = cmd.Wait()
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("start the floor's server: %w", err)
	}
	d.base = strings.TrimSpace(address)
	d.clients = []*http.Client{httpClient(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})} //nolint:gosec // its certificate is its own
	return d, end, nil
}

// bytes reads an answer of a size.
func (d *restDoor) bytes(ctx context.Context, size int) error {
	d.answer.Reset()
	_, err := d.callInto(ctx, 0, http.MethodGet, "/?bytes="+strconv.Itoa(size), nil, &d.answer)
	return err
}
