package lifecycle

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"syscall"

	"go.uber.org/zap"

	"kijabi.dev/platform/config"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/logging"
)

// Exit codes of a program.
const (
	// ExitOK means that the program was told to end and did.
	ExitOK = 0
	// ExitFailure means that a part failed; the supervisor restarts the program.
	ExitFailure = 1
	// ExitUsage means that flags or configuration are wrong; a restart does not help.
	ExitUsage = 2
)

// Main is the body of a program's main function: it reads the flags --config,
// --log-level and --version, loads the configuration over defaults, makes the
// logger, and calls run with a context that SIGTERM or SIGINT ends. A second
// signal kills the program the default way. It returns the exit code.
//
// With --await-config the program starts before its configuration is there, waits for
// it, and ends when it is taken away: the file is the order to run, for machines that
// start programs without a service manager. With --health it asks the running program
// how it is, and exits 0 or 1.
func Main[C any](name string, defaults *C, run func(ctx context.Context, cfg *C, log *zap.Logger) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // restores the default handling for the second signal
	return mainWith(ctx, name, os.Args[1:], os.Stdout, os.Stderr, defaults, run)
}

// options are the flags every program has.
type options struct {
	config   string
	logLevel string
	version  bool
	await    bool
	health   bool
}

func mainWith[C any](ctx context.Context, name string, args []string, stdout, stderr io.Writer,
	defaults *C, run func(context.Context, *C, *zap.Logger) error,
) int {
	opts, err := parse(name, args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return ExitOK
	}
	if err != nil {
		return ExitUsage // the flag package has printed it
	}
	if opts.version {
		_, _ = fmt.Fprintln(stdout, name, Version())
		return ExitOK
	}
	if opts.await {
		if err := awaitConfig(ctx, name, opts); err != nil {
			return ExitOK // told to end while waiting
		}
	}
	if err := config.Load(opts.config, defaults); err != nil {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err)
		if opts.health {
			return ExitFailure
		}
		return ExitUsage
	}
	if opts.health {
		return reportHealth(ctx, name, defaults, stdout)
	}
	if opts.await {
		run = whileConfigured(opts.config, run)
	}
	if opts.logLevel == "" {
		opts.logLevel = configuredLevel(defaults)
	}
	log, err := logging.New(opts.logLevel)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return ExitUsage
	}
	return execute(ctx, name, defaults, log, run)
}

func execute[C any](ctx context.Context, name string, cfg *C, log *zap.Logger, run func(context.Context, *C, *zap.Logger) error) int {
	defer func() { _ = log.Sync() }()
	log.Info("starting", logging.Component(name), zap.String("version", Version()))
	err := Call(ctx, func(ctx context.Context) error { return run(ctx, cfg, log) })
	if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		log.Error("failed", logging.Component(name), zap.Error(err))
		return ExitFailure
	}
	log.Info("stopped", logging.Component(name))
	return ExitOK
}

func parse(name string, args []string, stderr io.Writer) (options, error) {
	opts := options{}
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&opts.config, "config", filepath.Join(configv1.ConfigDir, name+".yaml"), "configuration `file`")
	flags.StringVar(&opts.logLevel, "log-level", "", "debug, info, warn or error; replaces the configuration's")
	flags.BoolVar(&opts.version, "version", false, "print the version and exit")
	flags.BoolVar(&opts.await, "await-config", false, "wait until the configuration is there, and end when it is taken away")
	flags.BoolVar(&opts.health, "health", false, "ask the running program whether it serves, print the answer, and exit 0 or 1")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if flags.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q: the program takes flags only", flags.Arg(0))
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return opts, err
	}
	return opts, nil
}

// configuredLevel finds the LogLevel that every configuration embeds by Common.
func configuredLevel(cfg any) string {
	value := reflect.Indirect(reflect.ValueOf(cfg))
	if value.Kind() != reflect.Struct {
		return ""
	}
	field := value.FieldByName("LogLevel")
	if !field.IsValid() || field.Kind() != reflect.String {
		return ""
	}
	return field.String()
}

// KubernetesVersion is what nodes and apiservers tell Kubernetes clients: the release
// whose API is served, and Kijabi's own.
const KubernetesVersion = "v1.37.2+kijabi.0.1"

// release is set by the Makefile, through the linker, to the version of all that is
// released together.
var release string

// Version is the version the program was built from: that of the release, the module's or
// the revision of its sources, "devel" when none is known.
func Version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
			return setting.Value[:12]
		}
	}
	return "devel"
}
