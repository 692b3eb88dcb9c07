package app

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/masters"
	"kijabi.dev/apiserver/internal/rescue"
	"kijabi.dev/apiserver/internal/snapshot"
	"kijabi.dev/apiserver/internal/storage/sealed"
	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/logging"
)

// Command performs what `kijabi snapshot` and `kijabi recover` need of a master's files and
// prints the outcome in JSON. ran is false when args are those of the program itself.
//
//	apiserver snapshot verify FILE|NAME   restores on trial
//	apiserver snapshot restore FILE|NAME  makes this master's data anew; it must not run
//	apiserver recover                     the same from its own data
//	apiserver masters                     who the masters are by this one's data; it must not run
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) (code int, ran bool) {
	words, flags := split(args)
	var do func(*offline, context.Context) (any, error)
	switch strings.Join(words[:min(2, len(words))], " ") {
	case "snapshot verify":
		do = (*offline).verify
	case "snapshot restore":
		do = alone((*offline).restore)
	case "recover":
		do = alone((*offline).recover)
	case "masters":
		do = alone((*offline).masters)
	default:
		return 0, false
	}
	outcome, err := perform(ctx, words, flags, stderr, do)
	if err == nil {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(outcome)
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "apiserver %s: %v\n", strings.Join(words, " "), err)
		return 1, true
	}
	return 0, true
}

// alone refuses what is done to, or with, the data of a master that runs.
func alone(do func(*offline, context.Context) (any, error)) func(*offline, context.Context) (any, error) {
	return func(o *offline, ctx context.Context) (any, error) {
		release, err := lockData(o.cfg)
		if err != nil {
			return nil, err
		}
		defer release()
		return do(o, ctx)
	}
}

// split divides the words at the beginning from the flags.
func split(args []string) (words, flags []string) {
	for i, arg := range args {
		if strings.HasPrefix(arg, "-") {
			return args[:i], args[i:]
		}
	}
	return args, nil
}

// offline is a master that does not run.
type offline struct {
	cfg   *configv1.APIServerConfiguration
	words []string
	log   *zap.Logger
}

func perform(ctx context.Context, words, args []string, stderr io.Writer, do func(*offline, context.Context) (any, error)) (any, error) {
	flags := flag.NewFlagSet("apiserver", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", filepath.Join(configv1.ConfigDir, "apiserver.yaml"), "configuration `file`")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o := &offline{cfg: DefaultConfig(), words: words}
	if err := config.Load(*file, o.cfg); err != nil {
		return nil, err
	}
	var err error
	if o.log, err = logging.New("warn"); err != nil {
		return nil, err
	}
	return do(o, ctx)
}

// open opens the snapshot that is named: a file, or what the archive has.
func (o *offline) open(ctx context.Context) (io.ReadCloser, error) {
	if len(o.words) != 3 {
		return nil, fmt.Errorf("want one FILE or NAME, not %d", len(o.words)-2)
	}
	name := o.words[2]
	file, err := os.Open(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	archive, err := openArchive(o.cfg)
	if err != nil {
		return nil, err
	}
	found, err := archive.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s, and no snapshot of that name in %s: `kijabi snapshot list` has all, and which master holds each", name, archive)
	}
	return found, err
}

func (o *offline) verify(ctx context.Context) (_ any, err error) {
	in, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	keys, err := openStorageKeys(o.cfg.PKIDir, o.log)
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(o.cfg.DataDir, "scratch-")
	if err != nil {
		return nil, fmt.Errorf("directory for the restoration on trial: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	return snapshot.Verify(ctx, in, keys, scratch)
}

func (o *offline) place() rescue.Place {
	return rescue.Place{
		Name: o.cfg.NodeName, ClusterID: o.cfg.ClusterID, PeerAddress: o.cfg.PeerAddress, PeerURL: o.cfg.Etcd.PeerURL,
		EtcdDir: etcdDir(o.cfg), RaftDir: raftDir(o.cfg), Now: time.Now(), Log: o.log,
	}
}

func (o *offline) restore(ctx context.Context) (_ any, err error) {
	in, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	keys, err := openStorageKeys(o.cfg.PKIDir, o.log)
	if err != nil {
		return nil, err
	}
	if o.cfg.Etcd.Separate() {
		return nil, o.restoreSeparate(in, keys)
	}
	return rescue.FromSnapshot(o.place(), in, keys)
}

// restoreSeparate makes ready what a separate etcd is restored from, which cannot be done here.
func (o *offline) restoreSeparate(in io.Reader, keys *sealed.Keys) error {
	p := o.place()
	file, bump, err := rescue.ForSeparate(p, in, keys, filepath.Join(o.cfg.DataDir, "restored-"+p.Now.UTC().Format("20060102T150405Z")))
	if err != nil {
		return err
	}
	return fmt.Errorf("nothing was changed: the data is in a separate etcd (etcd.endpoints) and is restored there. The snapshot's database is %s. Stop all apiservers and etcd's members, run `etcdutl snapshot restore %s --skip-hash-check --bump-revision %d --mark-compacted` for each member with its --name, --data-dir, --initial-cluster and --initial-advertise-peer-urls, start etcd, then the apiservers", file, filepath.Base(file), bump)
}

func (o *offline) recover(ctx context.Context) (any, error) {
	if o.cfg.Etcd.Separate() {
		return rescue.FromSeparate(o.place())
	}
	return rescue.FromMember(ctx, o.place())
}

func (o *offline) masters(context.Context) (any, error) {
	return masters.ReadData(raftDir(o.cfg))
}
