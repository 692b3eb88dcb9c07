package etcdnode

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// neighboursFile in the data directory lists the other members' URLs, so that a member that
// starts again knows whom to compare its data with.
const neighboursFile = "neighbours"

// neighbourTimeout is how long a living neighbour may take to say that it serves.
const neighbourTimeout = 300 * time.Millisecond

// rememberNeighbours writes the other members' URLs if they have changed.
func (n *Node) rememberNeighbours(written []string) ([]string, error) {
	self := uint64(n.etcd.Server.MemberID())
	var urls []string
	for _, m := range n.Members() {
		if m.ID != self {
			urls = append(urls, m.PeerURL)
		}
	}
	if slices.Equal(urls, written) {
		return written, nil
	}
	file := filepath.Join(n.cfg.Dir, neighboursFile)
	if err := os.WriteFile(file+".new", []byte(strings.Join(urls, "\n")), 0o600); err != nil {
		return written, err
	}
	return urls, os.Rename(file+".new", file)
}

// neighboursServe says whether all other members serve now. A single one that does not would
// make etcd's comparison of data at start wait for a time-out of several seconds; when all start
// together, as after a power failure, each would wait for all others.
func neighboursServe(ctx context.Context, cfg Config, tls transport.TLSInfo) bool {
	content, err := os.ReadFile(filepath.Join(cfg.Dir, neighboursFile))
	if err != nil {
		return false
	}
	peers, err := peerTransport(tls)
	if err != nil {
		return false
	}
	client := &http.Client{Timeout: neighbourTimeout, Transport: peers}
	urls := strings.FieldsFunc(string(content), func(r rune) bool { return r == '\n' || r == ',' })
	for _, url := range urls {
		if !serves(ctx, client, url) {
			return false
		}
	}
	return len(urls) > 0
}

// peerTransport is for a few requests to other members.
func peerTransport(tls transport.TLSInfo) (*http.Transport, error) {
	t := &http.Transport{DisableKeepAlives: true}
	if tls.Empty() {
		return t, nil
	}
	var err error
	t.TLSClientConfig, err = tls.ClientConfig()
	return t, err
}

func serves(ctx context.Context, client *http.Client, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/version", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
