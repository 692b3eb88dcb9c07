package sealed

import (
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
)

// A sealed value is
//
//	format (1 byte) | id of the key (8) | data key, wrapped (60) | value, sealed (28 more than it has)
//
// Both seals are AES-256-GCM behind a random nonce. The value's is bound to the key in etcd,
// so that a value put under another is refused.
const (
	sealedFormat = 2 // the store's own, plain values begin with 1
	dataKeySize  = 32
	overhead     = 28 // nonce and tag
	wrappedSize  = dataKeySize + overhead
	headerSize   = 1 + len(keyID{}) + wrappedSize
	// dataKeyUses bounds the values of one data key. Random nonces repeat with a chance of
	// 2^-32 after 2^32 values (NIST SP 800-38D); this stays far below.
	dataKeyUses = 1 << 24
	// openedKeys bounds the unwrapped data keys that are remembered: each start of a master
	// makes one.
	openedKeys = 1024
)

// wrapAAD tells a wrapped data key from everything else that a key could seal.
const wrapAAD = "kijabi data key"

// envelope seals and opens values. All methods are safe for concurrent use.
type envelope struct {
	keys *Keys

	mu   sync.Mutex
	data *dataKey

	opened sync.Map // [headerSize]byte → cipher.AEAD
	known  atomic.Int64
	// unwrapped counts the data keys that were opened, strange those whose key is not held.
	unwrapped, strange atomic.Int64
}

// dataKey seals values for a while.
type dataKey struct {
	id     keyID
	header []byte
	aead   cipher.AEAD
	uses   int
}

// sealer returns the present data key, a new one when the cluster's key has changed.
func (e *envelope) sealer() (*dataKey, error) {
	id, wrapper := e.keys.sealing()
	e.mu.Lock()
	defer e.mu.Unlock()
	if d := e.data; d != nil && d.id == id && d.uses < dataKeyUses {
		d.uses++
		return d, nil
	}
	secret := make([]byte, dataKeySize)
	_, _ = rand.Read(secret) // never fails; crypto/rand ends the program instead
	aead, err := newAEAD(secret)
	if err != nil {
		return nil, err
	}
	header := append([]byte{sealedFormat}, id[:]...)
	header = wrapper.Seal(header, nil, secret, []byte(wrapAAD))
	e.data = &dataKey{id: id, header: header, aead: aead, uses: 1}
	return e.data, nil
}

// seal returns a value as it is stored below path.
func (e *envelope) seal(path string, value []byte) ([]byte, error) {
	d, err := e.sealer()
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", path, err)
	}
	out := make([]byte, headerSize, headerSize+overhead+len(value))
	copy(out, d.header)
	return d.aead.Seal(out, nil, value, []byte(path)), nil
}

func isSealed(stored []byte) bool { return len(stored) > 0 && stored[0] == sealedFormat }

// keyOf is the id of the key a sealed value needs.
func keyOf(stored []byte) (id keyID, ok bool) {
	if len(stored) < headerSize+overhead {
		return id, false
	}
	copy(id[:], stored[1:])
	return id, true
}

// open returns the value stored below path. Errors name the path and the key.
func (e *envelope) open(path string, stored []byte) ([]byte, error) {
	id, ok := keyOf(stored)
	if !ok {
		return nil, fmt.Errorf("open %s: the sealed value has only %d bytes", path, len(stored))
	}
	aead, err := e.dataKeyOf(id, [headerSize]byte(stored))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	value, err := aead.Open(nil, nil, stored[headerSize:], []byte(path))
	if err != nil {
		return nil, fmt.Errorf("open %s, sealed with the key %s: the value is damaged or was stored for another object", path, id)
	}
	return value, nil
}

// dataKeyOf unwraps the data key of a sealed value.
func (e *envelope) dataKeyOf(id keyID, header [headerSize]byte) (cipher.AEAD, error) {
	if known, ok := e.opened.Load(header); ok {
		return known.(cipher.AEAD), nil
	}
	wrapper, err := e.keys.opening(id)
	if err != nil {
		e.strange.Add(1)
		return nil, err
	}
	secret, err := wrapper.Open(nil, nil, header[1+len(id):], []byte(wrapAAD))
	if err != nil {
		return nil, fmt.Errorf("its data key, wrapped with the key %s, is damaged", id)
	}
	aead, err := newAEAD(secret)
	if err != nil {
		return nil, err
	}
	e.unwrapped.Add(1)
	if e.known.Add(1) > openedKeys {
		e.opened.Clear()
		e.known.Store(1)
	}
	e.opened.Store(header, aead)
	return aead, nil
}

// Opener opens single values that do not come through a Backend. All methods are safe for
// concurrent use.
type Opener struct{ envelope envelope }

// NewOpener returns an opener of what keys open.
func NewOpener(keys *Keys) *Opener { return &Opener{envelope: envelope{keys: keys}} }

// Open returns the value stored below path, which may be plain.
func (o *Opener) Open(path string, stored []byte) ([]byte, error) {
	if !isSealed(stored) {
		return stored, nil
	}
	return o.envelope.open(path, stored)
}
