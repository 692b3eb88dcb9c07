package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/apiserver/internal/etcdnode"
	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/rescue"
	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	peerv1pb "kijabi.dev/proto/gen/kijabi/peer/v1"
)

const (
	// rebuildPatience is how long a master with damaged data asks the others before it ends with
	// the reason, and is started again.
	rebuildPatience = 30 * time.Second
	// mostNamed is how many objects that cannot be read are named in the status.
	mostNamed = 8
)

// rebuild gives damaged data up if the leader of the others permits it, so that the next start
// joins; nothing of this master runs any more. Data that can be used for want of better is taken by
// the next start if it is not given up.
func rebuild(ctx context.Context, cfg *configv1.APIServerConfiguration, why error, log *zap.Logger) error {
	if cfg.Bootstrap {
		return errors.New("its data is not given up while bootstrap is set in its configuration: without data it would found another cluster")
	}
	damage := &etcdnode.Damaged{Reason: why.Error()}
	errors.As(why, &damage)
	err := askToRebuild(ctx, cfg, damage, log)
	if removed := errors.Is(why, etcdnode.ErrRemoved) || errors.Is(why, masters.ErrRemoved); removed && apierrors.IsNotFound(err) {
		return nil // it was removed by somebody's wish
	}
	if err != nil {
		log.Error("the data of this master is damaged, but it is not given up", zap.Error(why), zap.NamedError("because", err))
		if damage.Usable {
			err = errors.Join(err, etcdnode.Trust(etcdDir(cfg)))
		}
		return err
	}
	aside, err := rescue.GiveUp(etcdDir(cfg), raftDir(cfg), time.Now())
	if err != nil {
		return err
	}
	log.Warn("this master's damaged data was moved aside, it joins anew", zap.Strings("to", aside), zap.Error(why))
	return nil
}

func askToRebuild(ctx context.Context, cfg *configv1.APIServerConfiguration, damage *etcdnode.Damaged, log *zap.Logger) error {
	others, err := otherMasters(ctx, cfg)
	if err != nil {
		return err
	}
	identity, err := pki.OpenIdentity(cfg.Peer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rebuildPatience)
	defer cancel()
	dial := func(address string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
		return rpc.Dial(address, identity, opts...)
	}
	generation, err := masters.AskToRebuild(ctx, others, dial, &peerv1pb.GiveUpRequest{
		Name: cfg.NodeName, Damage: damage.Reason, Differs: damage.Differs,
	}, log)
	if err != nil {
		return fmt.Errorf("permission to rebuild it from the other masters: %w", err)
	}
	log.Info("permitted to rebuild the data", zap.Uint64("generation", generation))
	return remember(cfg, others) // whom to join, without the roster that goes as well
}

// otherMasters are the peer addresses of all others that are known in any way.
func otherMasters(ctx context.Context, cfg *configv1.APIServerConfiguration) ([]string, error) {
	known, err := knownMasters(cfg)
	if err != nil {
		return nil, err
	}
	if verifyRaft(ctx, cfg) == nil { // else it is what is damaged
		data, err := masters.ReadData(raftDir(cfg))
		if err != nil {
			return nil, err
		}
		for _, member := range data.Members {
			known = append(known, member.PeerAddress)
		}
	}
	slices.Sort(known)
	return slices.DeleteFunc(slices.Compact(known), func(address string) bool { return address == cfg.PeerAddress }), nil
}

// verifyRaft returns an *etcdnode.Damaged if raft's data cannot be read.
func verifyRaft(ctx context.Context, cfg *configv1.APIServerConfiguration) error {
	return etcdnode.VerifyFile(ctx, filepath.Join(raftDir(cfg), "raft.db"))
}

// markFailed notes that the disk has failed a write, for the next start. Beside a separate etcd
// raft's data says for itself whether it can be used.
func markFailed(cfg *configv1.APIServerConfiguration, err error) {
	if dir := etcdDir(cfg); dir != "" {
		etcdnode.MarkFailed(dir, err)
	}
}

// damaged says whether an error is one that new data would mend.
func damaged(err error) bool {
	var damage *etcdnode.Damaged
	return errors.As(err, &damage) || errors.Is(err, etcdnode.ErrRemoved) || errors.Is(err, masters.ErrRemoved)
}

// concerns names the objects that cannot be read.
func concerns(objects *store.Store) func() []string {
	return func() []string {
		var names []string
		for key, reason := range objects.Quarantined() {
			if reason != nil {
				names = append(names, key.String())
			}
		}
		slices.Sort(names)
		var all []string
		for i, name := range names {
			if i == mostNamed {
				all = append(all, fmt.Sprintf("%d objects more cannot be read", len(names)-i))
				break
			}
			all = append(all, fmt.Sprintf("%s cannot be read and is not listed: delete it, or write it anew", name))
		}
		return all
	}
}
