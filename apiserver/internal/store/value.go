package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// A stored value is a header of three bytes (format, index in the batch) and the
// object's encoding without a version: the version is known only after the commit.
const (
	valueFormat = 1
	valueHeader = 3
	// stampRoom is what the version may add to an encoding.
	stampRoom = 32
)

// encodeValue copies an encoding behind a header, with room for the version.
func encodeValue(index int, encoding []byte) []byte {
	b := make([]byte, valueHeader+len(encoding), valueHeader+len(encoding)+stampRoom)
	b[0] = valueFormat
	binary.BigEndian.PutUint16(b[1:], uint16(index))
	copy(b[valueHeader:], encoding)
	return b
}

// decodeValue splits a stored value.
func decodeValue(b []byte) (index int, encoding []byte, err error) {
	if len(b) < valueHeader || b[0] != valueFormat {
		return 0, nil, errors.New("stored value has an unknown format")
	}
	if index = int(binary.BigEndian.Uint16(b[1:])); index >= progressMark {
		return 0, nil, fmt.Errorf("stored value has the place %d in its batch, the limit is %d", index, progressMark)
	}
	return index, b[valueHeader:], nil
}

// EncodingOf returns the object's encoding in a value as it is stored, which it is a part of.
func EncodingOf(stored []byte) ([]byte, error) {
	_, encoding, err := decodeValue(stored)
	return encoding, err
}

// AppendVersion appends a second occurrence of metadata holding only the resource
// version to a protobuf-encoded object; parsers merge the two. Metadata is field 1 of
// every object, the resource version field 6 of it.
func AppendVersion(encoding []byte, version uint64) []byte {
	var digits [20]byte
	text := strconv.AppendUint(digits[:0], version, 10)
	encoding = append(encoding, 1<<3|2, byte(len(text)+2), 6<<3|2, byte(len(text)))
	return append(encoding, text...)
}
