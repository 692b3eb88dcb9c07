package refs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"

	"kijabi.dev/platform/atomicfile"
	"kijabi.dev/platform/kube/object"
)

// settle is how long changes gather before the snapshot is written.
const settle = 500 * time.Millisecond

// record is one object in the file; Value is its protobuf encoding.
type record struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Value     []byte `json:"value"`
}

func readSnapshot(path string) (map[id][]byte, error) {
	result := map[id][]byte{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return result, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	var records []record
	if err := json.Unmarshal(data, &records); err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", path, err)
	}
	for _, r := range records {
		result[id{r.Kind, object.Key{Namespace: r.Namespace, Name: r.Name}}] = r.Value
	}
	return result, nil
}

// touch asks for the snapshot to be written; it does not block.
func (s *Store) touch() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *Store) keepSnapshot(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.changed:
		}
		select {
		case <-s.cfg.Clock.After(settle):
		case <-ctx.Done():
		}
		if err := s.writeSnapshot(); err != nil {
			// A full disk must not end the kubelet; the next change tries again.
			s.cfg.Log.Error("snapshot of referenced objects not written", zap.Error(err))
		}
	}
}

func (s *Store) writeSnapshot() error {
	s.mu.Lock()
	records := make([]record, 0, len(s.entries))
	claims := true // all of them are known, and with them which volumes are in use
	for ref, e := range s.entries {
		r := record{Kind: ref.kind, Namespace: ref.key.Namespace, Name: ref.key.Name}
		select {
		case <-e.ready:
			if e.obj == nil {
				continue
			}
			value, err := e.obj.Marshal()
			if err != nil {
				s.mu.Unlock()
				return fmt.Errorf("encode %s %s: %w", ref.kind, ref.key, err)
			}
			r.Value = value
		default: // not heard of since the start: keep what was known
			claims = claims && ref.kind != kindClaim
			value, known := s.snapshot[ref]
			if !known {
				continue
			}
			r.Value = value
		}
		records = append(records, r)
	}
	for ref, value := range s.snapshot {
		if s.entries[ref] == nil && ref.kind == kindVolume && !claims {
			records = append(records, record{Kind: ref.kind, Name: ref.key.Name, Value: value})
		}
	}
	s.mu.Unlock()
	data, err := json.Marshal(records)
	if err != nil {
		return fmt.Errorf("encode snapshot: %w", err)
	}
	return atomicfile.Write(s.cfg.SnapshotFile, data, 0o600)
}
