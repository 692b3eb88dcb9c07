package logging_test

import (
	"testing"

	"go.uber.org/zap"

	"kijabi.dev/platform/logging"
)

func TestNew(t *testing.T) {
	for level, enabled := range map[string]bool{"": false, "info": false, "debug": true, "error": false} {
		log, err := logging.New(level)
		if err != nil {
			t.Errorf("level %q: %v", level, err)
			continue
		}
		if got := log.Core().Enabled(zap.DebugLevel); got != enabled {
			t.Errorf("level %q: debug enabled is %v", level, got)
		}
	}
	for _, level := range []string{"loud", "fatal", "panic"} {
		if _, err := logging.New(level); err == nil {
			t.Errorf("level %q was accepted", level)
		}
	}
}
