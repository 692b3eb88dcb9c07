package app

import (
	"cmp"
	"path/filepath"

	"go.uber.org/zap"

	"kijabi.dev/apiserver/internal/audit"
	configv1 "kijabi.dev/platform/config/v1"
)

// Bounds of the audit log unless configured: about four million requests.
const (
	auditFileBytes = 100 << 20
	auditFiles     = 10
)

// openAudit returns the audit log, nil when it is turned off.
func openAudit(cfg *configv1.APIServerConfiguration, log *zap.Logger) (*audit.Log, error) {
	if cfg.Audit.Disabled {
		log.Warn("the audit log is turned off")
		return nil, nil //nolint:nilnil // a nil log drops everything
	}
	return audit.Open(audit.Config{
		File:     cmp.Or(cfg.Audit.File, filepath.Join(cfg.DataDir, "audit", "audit.log")),
		MaxBytes: cmp.Or(cfg.Audit.MaxFileBytes, auditFileBytes), MaxFiles: cmp.Or(cfg.Audit.MaxFiles, auditFiles), Log: log,
	})
}
