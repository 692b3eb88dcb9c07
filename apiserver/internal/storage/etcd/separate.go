package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
)

// Limits that etcd must allow, above the store's own: etcd's defaults are far smaller.
const (
	MaxTxnOps       = 4096
	MaxRequestBytes = 10 << 20
)

const (
	// clusterKey names the cluster that a separate etcd belongs to. An embedded member needs
	// none: its own cluster's token tells clusters apart.
	clusterKey = "/cluster"

	// askTimeout bounds one question to etcd.
	askTimeout = 5 * time.Second
	// statusInterval is how often its state is asked for.
	statusInterval = 5 * time.Second
	// connectRetry is the pause between attempts while none of its members answers.
	connectRetry = time.Second
)

// SeparateConfig says how a separate etcd is reached. Fields are required unless said otherwise.
type SeparateConfig struct {
	// Endpoints are the client URLs of its members.
	Endpoints []string
	// Identity is what this apiserver proves itself by, and by whose CAs it knows etcd. It is the
	// caller's to Run. Nil means no TLS (tests only; the endpoints are then http).
	Identity *pki.Identity
	Log      *zap.Logger
}

// Separate is an etcd that runs by itself, in processes or containers of its own, with this
// apiserver as a client. It must serve one cluster of apiservers and nobody else. All methods
// are safe for concurrent use.
type Separate struct {
	cfg     SeparateConfig
	client  *clientv3.Client
	backend *Backend
	close   sync.Once

	revision, bytes atomic.Int64
	// unchecked are members whose limits are not known yet; Connect's first, then Run's.
	unchecked []string
}

// Connect returns once a member answers, and fails when one that does is started with other limits than
// the store needs. Run must be called afterwards, or Close.
func Connect(ctx context.Context, cfg SeparateConfig) (*Separate, error) {
	s := &Separate{cfg: cfg, unchecked: cfg.Endpoints}
	for {
		err := s.checkMembers(ctx)
		if errors.Is(err, errLimits) {
			return nil, err
		}
		if len(s.unchecked) < len(cfg.Endpoints) {
			break
		}
		cfg.Log.Warn("etcd does not answer yet", zap.Strings("endpoints", cfg.Endpoints), zap.Error(err))
		select {
		case <-time.After(connectRetry):
			if cfg.Identity != nil { // nobody may run it yet; what is wrong with it, etcd or the next look says
				_ = cfg.Identity.Reload()
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("etcd at %s does not answer: %w", strings.Join(cfg.Endpoints, ", "), errors.Join(ctx.Err(), err))
		}
	}
	var err error
	if s.client, err = s.dial(cfg.Endpoints...); err != nil {
		return nil, err
	}
	s.backend = New(s.client)
	if err := s.look(ctx); err != nil {
		cfg.Log.Warn("etcd does not serve yet", zap.Error(err))
	}
	return s, nil
}

// Backend is the way to the data.
func (s *Separate) Backend() *Backend { return s.backend }

// Revision is the newest that this apiserver has asked for, at most some seconds old.
func (s *Separate) Revision() int64 { return s.revision.Load() }

// DatabaseBytes is the size of a member's database file, at most some seconds old.
func (s *Separate) DatabaseBytes() int64 { return s.bytes.Load() }

// Compact is Backend's.
func (s *Separate) Compact(ctx context.Context, revision int64) error {
	return s.backend.Compact(ctx, revision)
}

// Run keeps what is known of etcd up to date until ctx ends; then the connections are closed.
func (s *Separate) Run(ctx context.Context) error {
	defer s.Close()
	silent := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lifecycle.UntilBeat(time.Now(), statusInterval)):
		}
		err := s.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !silent:
			s.cfg.Log.Warn("etcd does not serve", zap.Error(err))
		case err == nil && silent:
			s.cfg.Log.Info("etcd serves again")
		}
		silent = err != nil
		if len(s.unchecked) > 0 {
			// It serves beside others by now: said, but no reason to end.
			if err := s.checkMembers(ctx); errors.Is(err, errLimits) {
				s.cfg.Log.Error("large writes will fail", zap.Error(err))
			}
		}
	}
}

// Close ends all connections. It may be called twice.
func (s *Separate) Close() { s.close.Do(func() { _ = s.client.Close() }) }

// look asks one member for its state; it fails while that knows no leader.
func (s *Separate) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := etcdserverpb.NewMaintenanceClient(s.client.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil {
		return fmt.Errorf("state of etcd: %w", err)
	}
	for newest := answer.GetHeader().GetRevision(); ; {
		known := s.revision.Load()
		if newest <= known || s.revision.CompareAndSwap(known, newest) {
			break
		}
	}
	s.bytes.Store(answer.GetDbSize())
	return nil
}

// errLimits is a member that would refuse what the store writes.
var errLimits = fmt.Errorf("start every member with --max-txn-ops=%d --max-request-bytes=%d", MaxTxnOps, MaxRequestBytes)

// checkMembers looks at the limits of all members of which they are not known, at once, and
// returns errLimits if one has others, else why some could not be asked.
func (s *Separate) checkMembers(ctx context.Context) error {
	faults := make([]error, len(s.unchecked))
	var asked sync.WaitGroup
	for i, endpoint := range s.unchecked {
		asked.Go(func() { faults[i] = s.checkMember(ctx, endpoint) })
	}
	asked.Wait()
	var silent []string
	for i, err := range faults {
		if err != nil && !errors.Is(err, errLimits) {
			silent = append(silent, s.unchecked[i])
		}
	}
	s.unchecked = silent
	return errors.Join(faults...)
}

// checkMember has a member look at transactions of the greatest size, which read and change nothing.
func (s *Separate) checkMember(ctx context.Context, endpoint string) error {
	member, err := s.dial(endpoint)
	if err != nil {
		return err
	}
	defer func() { _ = member.Close() }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	never := clientv3.Compare(clientv3.ModRevision(clusterKey), "=", -1)
	many := make([]clientv3.Op, MaxTxnOps)
	for i := range many {
		many[i] = clientv3.OpGet(clusterKey, clientv3.WithSerializable())
	}
	_, err = member.Txn(ctx).If(never).Then(many...).Commit()
	if err == nil {
		// etcd's gRPC server takes 512 KiB more than a request may have, so that this is
		// no exact measure, but one without a write.
		large := clientv3.Compare(clientv3.Value(clusterKey), "=", strings.Repeat("x", MaxRequestBytes))
		_, err = member.Txn(ctx).If(never, large).Then(many[0]).Commit()
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("etcd at %s allows fewer operations in a transaction than are needed: %w", endpoint, errLimits)
	case status.Code(err) == codes.ResourceExhausted, errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("etcd at %s allows smaller requests than are needed: %w", endpoint, errLimits)
	}
	return fmt.Errorf("etcd at %s: %w", endpoint, err)
}

// Found makes the etcd that of a new cluster; it must be empty, or left by an attempt that never
// had a leader.
func (s *Separate) Found(ctx context.Context, clusterID string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithKeysOnly(), clientv3.WithLimit(2))
	if err != nil {
		return fmt.Errorf("look into etcd: %w", translate(err))
	}
	owner, err := s.owner(ctx)
	if err != nil {
		return err
	}
	seen := int64(0) // the revision that put the cluster's ID
	for _, kv := range resp.Kvs {
		switch key := string(kv.Key); {
		case key == clusterKey && len(resp.Kvs) == 1:
			seen = kv.ModRevision
		case owner == clusterID:
			return fmt.Errorf("etcd at %s already holds the data of this cluster: join its masters (join), or run `kijabi recover` on one of them if their majority is lost", s.where())
		case owner != "":
			return fmt.Errorf("%w, or empty it if that cluster is gone (`etcdctl del '' --from-key`)", s.foreign(owner, clusterID))
		default:
			return fmt.Errorf("etcd at %s is not empty, it holds %q: give the cluster an etcd that nobody else uses", s.where(), key)
		}
	}
	if owner == clusterID {
		return nil
	}
	_, err = s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(clusterKey), "=", seen)).
		Then(clientv3.OpPut(clusterKey, clusterID)).Commit()
	if err != nil {
		return fmt.Errorf("put the cluster's ID into etcd: %w", translate(err))
	}
	return s.Belongs(ctx, clusterID) // another may have been quicker
}

// Belongs fails unless the etcd is that of the cluster.
func (s *Separate) Belongs(ctx context.Context, clusterID string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	owner, err := s.owner(ctx)
	switch {
	case err != nil:
		return err
	case owner == "":
		return fmt.Errorf("etcd at %s holds no data of a cluster, this master belongs to %s: give etcd.endpoints as its other masters have them", s.where(), clusterID)
	case owner != clusterID:
		return s.foreign(owner, clusterID)
	}
	return nil
}

func (s *Separate) foreign(owner, clusterID string) error {
	return fmt.Errorf("etcd at %s holds the data of the cluster %s, this master belongs to %s: give each cluster an etcd of its own in etcd.endpoints", s.where(), owner, clusterID)
}

// owner is the cluster whose data etcd holds, empty for none.
func (s *Separate) owner(ctx context.Context) (string, error) {
	resp, err := s.client.Get(ctx, clusterKey)
	if err != nil {
		return "", fmt.Errorf("read the cluster's ID from etcd: %w", translate(err))
	}
	if len(resp.Kvs) == 0 {
		return "", nil
	}
	return string(resp.Kvs[0].Value), nil
}

func (s *Separate) where() string { return strings.Join(s.cfg.Endpoints, ", ") }

func (s *Separate) dial(endpoints ...string) (*clientv3.Client, error) {
	options := []grpc.DialOption{
		grpc.WithConnectParams(connectParams()),
		grpc.WithChainUnaryInterceptor(leaderUnary(len(endpoints))),
		grpc.WithChainStreamInterceptor(leaderStream),
	}
	if s.cfg.Identity != nil {
		options = append(options, grpc.WithTransportCredentials(newCredentials(s.cfg.Identity)))
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialOptions: options,
		DialKeepAliveTime: keepaliveTime, DialKeepAliveTimeout: keepaliveTimeout, PermitWithoutStream: true,
		MaxCallSendMsgSize: 2 * MaxRequestBytes,
		// Reads try each member; the store repeats them for as long as they are wanted.
		MaxUnaryRetries: uint(len(endpoints) + 1),
		Logger:          s.cfg.Log.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel)), // what fails is returned
	})
	if err != nil {
		return nil, fmt.Errorf("etcd at %s: %w", strings.Join(endpoints, ", "), err)
	}
	return client, nil
}
