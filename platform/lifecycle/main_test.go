package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	configv1 "kijabi.dev/platform/config/v1"
)

const schedulerFile = `
apiVersion: kijabi.dev/v1
kind: SchedulerConfiguration
nodeName: m1
listenAddress: :1
identity: {certFile: /c, keyFile: /k, caFile: /ca}
apiServer: :2
logLevel: error
`

func TestMainExitCodes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	if err := os.WriteFile(file, []byte(schedulerFile), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := []string{"--config", file}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx    context.Context
		args   []string
		run    func(ctx context.Context) error
		code   int
		output string
	}{
		"success":         {t.Context(), quiet, func(context.Context) error { return nil }, ExitOK, ""},
		"failure":         {t.Context(), quiet, func(context.Context) error { return errors.New("broken") }, ExitFailure, ""},
		"panic":           {t.Context(), quiet, func(context.Context) error { panic("boom") }, ExitFailure, ""},
		"signal":          {ended, quiet, func(ctx context.Context) error { return ctx.Err() }, ExitOK, ""},
		"failed ending":   {ended, quiet, func(context.Context) error { return errors.New("broken") }, ExitFailure, ""},
		"no file":         {t.Context(), []string{"--config", file + "x"}, nil, ExitUsage, "no such file"},
		"unknown flag":    {t.Context(), []string{"--colour"}, nil, ExitUsage, "colour"},
		"stray argument":  {t.Context(), []string{"start"}, nil, ExitUsage, `unexpected argument "start"`},
		"wrong log level": {t.Context(), append(quiet, "--log-level", "loud"), nil, ExitUsage, "loud"},
		"version":         {t.Context(), []string{"--version"}, nil, ExitOK, "scheduler "},
		"help":            {t.Context(), []string{"--help"}, nil, ExitOK, "/etc/kijabi/scheduler.yaml"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			output := &bytes.Buffer{}
			code := mainWith(test.ctx, "scheduler", test.args, output, output, &configv1.SchedulerConfiguration{},
				func(ctx context.Context, cfg *configv1.SchedulerConfiguration, log *zap.Logger) error {
					if cfg.APIServer != ":2" || log.Core().Enabled(zap.WarnLevel) {
						t.Errorf("run got %+v and a logger for warnings", cfg)
					}
					return test.run(ctx)
				})
			if code != test.code || !strings.Contains(output.String(), test.output) {
				t.Errorf("code %d, want %d; output:\n%s", code, test.code, output)
			}
		})
	}
}
