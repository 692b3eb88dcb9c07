// Command grpc talks to a cluster over gRPC, without a kubeconfig and without
// client-go: it lists pods, watches them, and makes a Deployment.
//
//	go run ./grpc pods
//	go run ./grpc watch --namespace default
//	go run ./grpc create web --image registry.kijabi.dev/guestbook-web:1 --replicas 2
//	go run ./grpc delete web
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"go.uber.org/zap"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
)

const usage = `usage: grpc COMMAND [flags]

  pods               list pods
  watch              print pods as they change, until interrupted
  create NAME        make a Deployment
  delete NAME        delete a Deployment

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "grpc:", err)
		os.Exit(1)
	}
}

// options are the flags of all commands.
type options struct {
	identity  configv1.Identity
	server    string
	namespace string
	image     string
	replicas  int
}

func run(ctx context.Context, args []string, out, complaints io.Writer) error {
	var opts options
	flags := flag.NewFlagSet("grpc", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.Usage = func() {
		_, _ = io.WriteString(complaints, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&opts.identity.CertFile, "cert", "", "certificate `file`; default that of $HOME/.kijabi/kijabi")
	flags.StringVar(&opts.identity.KeyFile, "key", "", "its key `file`")
	flags.StringVar(&opts.identity.CAFile, "ca", "", "`file` of the cluster's CA")
	flags.StringVar(&opts.server, "server", "", "`host:port` of apiservers' gRPC doors, separated by commas")
	flags.StringVar(&opts.namespace, "namespace", "", "namespace; all, or default for a Deployment, when not given")
	flags.StringVar(&opts.image, "image", "registry.kijabi.dev/toolbox:1", "image of the Deployment")
	flags.IntVar(&opts.replicas, "replicas", 1, "pods of the Deployment")
	words, err := parse(flags, args)
	if err != nil {
		return err
	}
	command, err := choose(words, opts, out)
	if err != nil {
		flags.Usage()
		return err
	}
	return connect(ctx, opts, command)
}

// parse allows flags before, between and after words.
func parse(flags *flag.FlagSet, args []string) (words []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, flag.ErrHelp // told by the flag package
		}
		if flags.NArg() == 0 {
			return words, nil
		}
		words, args = append(words, flags.Arg(0)), flags.Args()[1:]
	}
}

// task is a command ready to be run.
type task func(ctx context.Context, c *client.Client) error

func choose(words []string, opts options, out io.Writer) (task, error) {
	switch strings.Join(words[:min(1, len(words))], "") {
	case "pods":
		if len(words) == 1 {
			return func(ctx context.Context, c *client.Client) error { return listPods(ctx, c, opts.namespace, out) }, nil
		}
	case "watch":
		if len(words) == 1 {
			return func(ctx context.Context, c *client.Client) error { return watchPods(ctx, c, opts.namespace, out) }, nil
		}
	case "create":
		if len(words) == 2 {
			return func(ctx context.Context, c *client.Client) error {
				return createDeployment(ctx, c, deployment(opts, words[1]), out)
			}, nil
		}
	case "delete":
		if len(words) == 2 {
			return func(ctx context.Context, c *client.Client) error {
				return deleteDeployment(ctx, c, deployment(opts, words[1]), out)
			}, nil
		}
	}
	return nil, flag.ErrHelp
}

// connect dials the apiservers and runs the command. The connection moves to
// another apiserver by itself when the one in use is gone.
func connect(ctx context.Context, opts options, command task) error {
	opts, err := opts.complete()
	if err != nil {
		return err
	}
	identity, err := pki.OpenIdentity(opts.identity)
	if err != nil {
		return err
	}
	conn, err := rpc.DialAny(rpc.FailoverConfig{
		Addresses: strings.Split(opts.server, ","), Identity: identity, Log: zap.NewNop(),
	})
	if err != nil {
		return err
	}
	ctx, done := context.WithCancel(ctx)
	defer done()
	return lifecycle.RunAll(ctx, conn.Run, func(ctx context.Context) error {
		defer done()
		return command(ctx, client.New(conn))
	})
}

// complete takes what no flag said from the files that `kijabi up` and
// `kijabi master init` leave in the home directory.
func (o options) complete() (options, error) {
	if o.identity.CertFile != "" && o.identity.KeyFile != "" && o.identity.CAFile != "" && o.server != "" {
		return o, nil
	}
	dir := os.Getenv("KIJABI_ACCESS") // of a cluster with another name
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return o, fmt.Errorf("give --cert, --key, --ca and --server: %w", err)
		}
		dir = filepath.Join(home, ".kijabi", "kijabi")
	}
	for path, field := range map[string]*string{
		"user.crt": &o.identity.CertFile, "user.key": &o.identity.KeyFile, "ca.crt": &o.identity.CAFile,
	} {
		if *field == "" {
			*field = filepath.Join(dir, path)
		}
	}
	if o.server != "" {
		return o, nil
	}
	content, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if err != nil {
		return o, fmt.Errorf("no cluster is known; give --server: %w", err)
	}
	var cluster struct {
		Masters []struct {
			GRPC string `json:"grpc"`
		} `json:"masters"`
	}
	if err := json.Unmarshal(content, &cluster); err != nil {
		return o, fmt.Errorf("%s: %w", filepath.Join(dir, "cluster.json"), err)
	}
	var addresses []string
	for _, master := range cluster.Masters {
		addresses = append(addresses, master.GRPC)
	}
	o.server = strings.Join(addresses, ",")
	return o, nil
}
