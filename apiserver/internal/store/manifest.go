package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// manifest says what one batch did, in order, for whom. Every batch overwrites the one
// manifest key; the key's history is the history of the cluster. Puts of ephemeral objects are
// left out.
type manifest struct {
	epoch uint64
	// batch counts the batches of the epoch; with it names the batch when its outcome is unknown.
	batch  uint64
	time   time.Time
	groups []manifestGroup
}

// manifestGroup is one request of a batch.
type manifestGroup struct {
	user, requestID string
	writes          []manifestWrite
	// size is the number of writes the request had.
	size int
}

// manifestWrite is one write of a request.
type manifestWrite struct {
	// position in the request.
	position int
	// index in the batch, lower bits of the version.
	index  int
	remove bool
	path   string
}

const manifestFormat = 1

func (m *manifest) encode() []byte {
	n := 64
	for i := range m.groups {
		g := &m.groups[i]
		n += 16 + len(g.user) + len(g.requestID)
		for j := range g.writes {
			n += 8 + len(g.writes[j].path)
		}
	}
	b := make([]byte, 0, n)
	b = append(b, manifestFormat)
	b = binary.AppendUvarint(b, m.epoch)
	b = binary.AppendUvarint(b, m.batch)
	b = binary.AppendVarint(b, m.time.UnixNano())
	b = binary.AppendUvarint(b, uint64(len(m.groups)))
	for i := range m.groups {
		g := &m.groups[i]
		b = appendText(b, g.user)
		b = appendText(b, g.requestID)
		b = binary.AppendUvarint(b, uint64(g.size))
		b = binary.AppendUvarint(b, uint64(len(g.writes)))
		for j := range g.writes {
			w := &g.writes[j]
			op := uint64(w.index) << 1
			if w.remove {
				op |= 1
			}
			b = binary.AppendUvarint(b, uint64(w.position))
			b = binary.AppendUvarint(b, op)
			b = appendText(b, w.path)
		}
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func decodeManifest(b []byte) (*manifest, error) {
	if len(b) == 0 || b[0] != manifestFormat {
		return nil, errors.New("manifest has an unknown format")
	}
	r := reader{b: b[1:]}
	m := &manifest{epoch: r.uint(), batch: r.uint()}
	m.time = time.Unix(0, r.int())
	groups := r.count()
	m.groups = make([]manifestGroup, 0, groups)
	for range groups {
		g := manifestGroup{user: r.text(), requestID: r.text(), size: r.below(math.MaxInt32)}
		writes := r.count()
		g.writes = make([]manifestWrite, 0, writes)
		for range writes {
			w := manifestWrite{position: r.below(g.size)}
			op := r.below(progressMark << 1)
			w.index, w.remove = op>>1, op&1 == 1
			w.path = r.text()
			g.writes = append(g.writes, w)
		}
		m.groups = append(m.groups, g)
	}
	if r.bad {
		return nil, fmt.Errorf("manifest of %d bytes is damaged", len(b))
	}
	return m, nil
}

// reader takes numbers and texts off b; bad is set when it runs out.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// below is a number less than limit.
func (r *reader) below(limit int) int {
	n := r.uint()
	if n >= uint64(limit) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

// count is a number of items, of which at least a byte each follows.
func (r *reader) count() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) text() string {
	n := r.count()
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
