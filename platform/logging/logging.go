// Package logging makes the component's logger and holds the names of the fields
// that several packages log, so that one search finds a thing in every log.
package logging

import (
	"fmt"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a logger to standard error: JSON lines, or a readable format when
// standard error is a terminal. Level is debug, info, warn or error; empty means info.
func New(level string) (*zap.Logger, error) {
	at := zapcore.InfoLevel
	if level != "" {
		parsed, err := zapcore.ParseLevel(level)
		if err != nil || parsed > zapcore.ErrorLevel {
			return nil, fmt.Errorf("log level %q is unknown; use debug, info, warn or error", level)
		}
		at = parsed
	}
	return zap.New(zapcore.NewCore(encoder(onTerminal(os.Stderr)), zapcore.Lock(os.Stderr), at),
		zap.ErrorOutput(zapcore.Lock(os.Stderr))), nil
}

func encoder(terminal bool) zapcore.Encoder {
	if terminal {
		cfg := zap.NewDevelopmentEncoderConfig()
		cfg.EncodeLevel = zapcore.CapitalColorLevelEncoder
		cfg.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		return zapcore.NewConsoleEncoder(cfg)
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.TimeKey = "time"
	cfg.MessageKey = "message"
	cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	return zapcore.NewJSONEncoder(cfg)
}

func onTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Component names the part of a program that logs.
func Component(name string) zap.Field { return zap.String("component", name) }

// Node names a machine of the cluster.
func Node(name string) zap.Field { return zap.String("node", name) }

// Pod names a pod.
func Pod(namespace, name string) zap.Field { return zap.String("pod", namespace+"/"+name) }

// Key names an object; k is usually an object.Key.
func Key(k fmt.Stringer) zap.Field { return zap.Stringer("key", k) }

// Kind names a kind of object.
func Kind(kind string) zap.Field { return zap.String("kind", kind) }

// Epoch is the leadership epoch, the etcd revision of the leader's claim.
func Epoch(e uint64) zap.Field { return zap.Uint64("epoch", e) }

// Address is host:port of a peer.
func Address(a string) zap.Field { return zap.String("address", a) }

// Method is a full gRPC method, /package.Service/Method.
func Method(m string) zap.Field { return zap.String("method", m) }

// User is the name of an authenticated caller.
func User(name string) zap.Field { return zap.String("user", name) }

// RequestID ties the log lines of one request together across machines.
func RequestID(id string) zap.Field { return zap.String("request_id", id) }
