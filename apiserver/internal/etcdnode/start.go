package etcdnode

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

const (
	admissionTimeout = 10 * time.Second
	admissionRetry   = 50 * time.Millisecond
)

// startEtcd starts etcd. A member that joins compares its list of members with that of
// the first one that answers, and gives up if they differ; the one that answers may just
// not have heard of the admission yet, so it is asked again for a while.
func startEtcd(ctx context.Context, cfg Config, trust bool) (*embed.Etcd, error) {
	joins := cfg.InitialCluster != "" && !Exists(cfg.Dir)
	deadline := time.Now().Add(admissionTimeout)
	for {
		ec, err := embedConfig(ctx, cfg, trust)
		if err != nil {
			return nil, err
		}
		e, err := embed.StartEtcd(ec)
		// etcd has no error value for it.
		if err == nil || !joins || !strings.Contains(err.Error(), "error validating peerURLs") || time.Now().After(deadline) {
			return e, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(admissionRetry):
		}
	}
}
