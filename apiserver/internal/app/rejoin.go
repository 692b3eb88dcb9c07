package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/datadir"
	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/rescue"
	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/lifecycle"
)

// knownEvery is how often the file of known masters is brought up to date.
const knownEvery = 5 * time.Second

// etcdDir holds the embedded member's data; empty if there is none.
func etcdDir(cfg *configv1.APIServerConfiguration) string {
	if cfg.Etcd.Separate() {
		return ""
	}
	return cmp.Or(cfg.Etcd.DataDir, filepath.Join(cfg.DataDir, "etcd"))
}

func raftDir(cfg *configv1.APIServerConfiguration) string { return filepath.Join(cfg.DataDir, "raft") }

// lockData keeps other processes from this master's data until release is called.
func lockData(cfg *configv1.APIServerConfiguration) (release func(), err error) {
	if cfg.Etcd.Separate() {
		return datadir.Lock(raftDir(cfg))
	}
	return datadir.Lock(etcdDir(cfg), raftDir(cfg))
}

// knownFile lists the peer addresses of the other masters. It lies beside the certificate: a
// master that has lost its data but not its certificate knows by it whom to join.
func knownFile(cfg *configv1.APIServerConfiguration) string {
	return filepath.Join(filepath.Dir(cfg.Peer.CertFile), "masters.json")
}

// knownMasters are the peer addresses of all other masters that this one ever heard of.
func knownMasters(cfg *configv1.APIServerConfiguration) ([]string, error) {
	known := slices.Clone(cfg.Join)
	text, err := os.ReadFile(knownFile(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	var remembered []string
	if err == nil {
		err = json.Unmarshal(text, &remembered)
	}
	if err != nil {
		return nil, fmt.Errorf("known masters: %w", err)
	}
	for _, address := range remembered {
		if !slices.Contains(known, address) {
			known = append(known, address)
		}
	}
	return known, nil
}

func remember(cfg *configv1.APIServerConfiguration, addresses []string) error {
	text, err := json.Marshal(addresses)
	if err == nil {
		err = atomicfile.Write(knownFile(cfg), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("remember the masters: %w", err)
	}
	return nil
}

// rememberMasters keeps the file of known masters.
func rememberMasters(cfg *configv1.APIServerConfiguration, group *masters.Masters) lifecycle.Task {
	return func(ctx context.Context) error {
		var written []string
		for {
			var others []string
			for _, member := range group.Members() {
				if member.Name != cfg.NodeName {
					others = append(others, member.PeerAddress)
				}
			}
			if len(others) > 0 && !slices.Equal(others, written) {
				switch err := remember(cfg, others); {
				case errors.Is(err, syscall.ENOSPC): // as good as never written; the next time, then
				case err != nil:
					return err
				default:
					written = others
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(lifecycle.UntilBeat(time.Now(), knownEvery)):
			}
		}
	}
}

// startMember starts the member that this master's data is of. While that waits for its
// group, it asks the other masters whether the group goes on without it, and returns a
// *masters.Superseded if one says so.
func startMember(ctx context.Context, cfg *configv1.APIServerConfiguration, etcdConfig etcdnode.Config, dial masters.Dial, log *zap.Logger) (*etcdnode.Node, error) {
	if err := verifyRaft(ctx, cfg); err != nil {
		return nil, err
	}
	former, known, err := formerGroup(cfg)
	if err != nil {
		return nil, err
	}
	group := lifecycle.NewGroup(ctx)
	var node *etcdnode.Node
	var newer *masters.Superseded
	group.Go(func(inner context.Context) error {
		newer = masters.AwaitSuccessor(inner, cfg.ClusterID, former.Generation, known, dial, log)
		group.Cancel()
		return nil
	})
	group.Go(func(inner context.Context) (err error) {
		node, err = etcdnode.Start(inner, etcdConfig)
		group.Cancel()
		return err
	})
	err = group.Wait()
	if newer != nil && node == nil {
		return nil, newer
	}
	return node, err // one that has started notices in its own time
}

// giveUp moves this master's data aside, for the cluster goes on in a newer generation.
func giveUp(cfg *configv1.APIServerConfiguration, newer *masters.Superseded, log *zap.Logger) error {
	known, err := knownMasters(cfg)
	if err != nil {
		return err
	}
	if newer.Address != "" && !slices.Contains(known, newer.Address) {
		if err := remember(cfg, append(known, newer.Address)); err != nil {
			return err
		}
	}
	aside, err := rescue.MoveAside(etcdDir(cfg), raftDir(cfg), time.Now())
	if err != nil {
		return err
	}
	log.Warn("this master's data was moved aside, it joins anew", zap.Strings("to", aside), zap.Error(newer))
	return nil
}

// belongTo makes sure that raft's data is of the generation that is joined.
func belongTo(cfg *configv1.APIServerConfiguration, generation uint64, log *zap.Logger) error {
	data, err := masters.ReadData(raftDir(cfg))
	if err != nil {
		return err
	}
	if data.ClusterID != "" && data.Generation != generation {
		if err := giveUp(cfg, &masters.Superseded{Generation: generation, By: "the leader"}, log); err != nil {
			return err
		}
	}
	return masters.SetGeneration(raftDir(cfg), generation)
}
