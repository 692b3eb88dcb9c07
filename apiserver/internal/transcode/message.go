package transcode

import (
	"encoding/base64"
	"encoding/json"
	"math/bits"
	"reflect"
	"strconv"
)

// span is a part of the value.
type span struct{ from, to uint32 }

// writer writes one value. Wherever an encoding is not what encoders of Go types make of
// it, its methods give up and return false: decoding then tells what the value is.
type writer struct {
	value []byte
	// version is what a second occurrence of the metadata says of the resource version.
	version span
	// fields found in the messages that are being written, one message after the other.
	fields []span
	// owned is the last set of owned fields that could be copied: of many objects it is the same.
	owned []byte
}

// depthLimit ends recursion.
const depthLimit = 100

// varint reads a number; size is 0 if there is none.
func varint(s []byte) (value uint64, size int) {
	for i, c := range s {
		if i == 9 && c > 1 {
			return 0, 0
		}
		value |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return value, i + 1
		}
	}
	return 0, 0
}

// tag reads the tag of a field; ok is false for tags longer than they need be.
func tag(s []byte) (number, wire, size int, ok bool) {
	switch {
	case len(s) > 0 && s[0] < 0x80:
		return int(s[0] >> 3), int(s[0] & 7), 1, s[0] >= 1<<3
	case len(s) > 1 && s[1] > 0 && s[1] < 0x80:
		return int(s[0]&0x7f)>>3 | int(s[1])<<4, int(s[0] & 7), 2, true
	default:
		return 0, 0, 0, false
	}
}

// scan finds the fields of a message and notes them in w.fields from base on: of a single
// field its content, of a repeated one all its occurrences, which must be neighbours.
func (w *writer) scan(m *message, s span, base, depth int) (seen uint64, ok bool) {
	if missing := base + len(m.fields) - len(w.fields); missing > 0 {
		w.fields = append(w.fields, make([]span, missing)...)
	}
	found := w.fields[base : base+len(m.fields)]
	value := w.value[:s.to]
	at := int(s.from)
	for at < len(value) {
		start := at
		number, wire, size, ok := tag(value[at:])
		if !ok {
			return 0, false
		}
		at += size
		content := at
		switch wire {
		case wireVarint:
			_, size := varint(value[at:])
			if size == 0 {
				return 0, false
			}
			at += size
		case wireBytes:
			length, size := varint(value[at:])
			content += size
			if size == 0 || length > uint64(len(value)-content) {
				return 0, false
			}
			at = content + int(length) //nolint:gosec // less than the value
		case wireFixed64:
			at += 8
		case wireFixed32:
			at += 4
		default:
			return 0, false
		}
		if number >= len(m.positions) || m.positions[number] == 0 {
			continue // a newer version wrote it
		}
		i := int(m.positions[number]) - 1
		f := &m.fields[i]
		switch {
		case int(f.wire) != wire:
			return 0, false
		case seen>>i&1 == 0:
			seen |= 1 << i
			found[i] = span{uint32(content), uint32(at)}
			if f.shape >= repeated {
				found[i].from = uint32(start)
			}
		case f.shape >= repeated && int(found[i].to) == start:
			found[i].to = uint32(at)
		case depth == 0 && number == 1 && at == len(value):
			if !w.stamp(f, span{uint32(content), uint32(at)}) {
				return 0, false
			}
		default:
			return 0, false
		}
	}
	return seen, at == len(value)
}

// stamp reads the second occurrence of an object's metadata, which tells its version.
func (w *writer) stamp(f *field, s span) bool {
	if f.op != opMessage || f.message.versionField == 0 || w.version.to != 0 {
		return false
	}
	number, wire, size, ok := tag(w.value[s.from:s.to])
	if !ok || number != versionNumber || wire != wireBytes {
		return false
	}
	from := int(s.from) + size
	length, size := varint(w.value[from:s.to])
	from += size
	if size == 0 || length != uint64(int(s.to)-from) {
		return false
	}
	w.version = span{uint32(from), s.to}
	return true
}

// object writes a message as a JSON object. Space from base on in w.fields is free.
func (w *writer) object(b []byte, m *message, s span, base, depth int) ([]byte, bool) {
	if m.decoded {
		return w.decode(b, m, s)
	}
	b = append(b, '{')
	b = append(b, m.head...)
	b, ok := w.members(b, m, s, base, depth)
	return append(b, '}'), ok
}

// members writes the fields of a message.
func (w *writer) members(b []byte, m *message, s span, base, depth int) ([]byte, bool) {
	if depth > depthLimit {
		return b, false
	}
	seen, ok := w.scan(m, s, base, depth)
	if !ok {
		return b, false
	}
	if depth == 1 && m.versionField != 0 && w.version.to != 0 {
		seen |= 1 << (m.versionField - 1)
		w.fields[base+m.versionField-1] = w.version
	}
	free := base + len(m.fields)
	for left := seen | m.always; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(left)
		f := &m.fields[i]
		var content span
		there := seen>>i&1 != 0
		if there {
			content = w.fields[base+i]
		}
		if f.inline {
			if b, ok = w.members(b, f.message, content, free, depth+1); !ok {
				return b, false
			}
			continue
		}
		if f.omit && w.zero(f, content) {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, f.key...)
		switch {
		case !there && (f.shape != single || f.op == opBytes):
			b = append(b, "null"...)
		case f.shape == repeated:
			b, ok = w.list(b, f, content, free, depth)
		case f.shape == keyed:
			b, ok = w.keyed(b, f, content, free, depth)
		default:
			b, ok = w.one(b, f, content, free, depth)
		}
		if !ok {
			return b, false
		}
	}
	return b, true
}

// zero tells whether a value need not be written.
func (w *writer) zero(f *field, s span) bool {
	content := w.value[s.from:s.to]
	switch {
	case f.op == opTime || f.op == opMicroTime:
		return isZeroTime(content, f.op == opMicroTime)
	case f.wire != wireVarint:
		return len(content) == 0
	case f.op == opInt32:
		value, _ := varint(content)
		return int32(value) == 0 //nolint:gosec // the same bits
	default:
		value, _ := varint(content)
		return value == 0
	}
}

// one writes a single value from its content, which is empty if there is none.
func (w *writer) one(b []byte, f *field, s span, free, depth int) ([]byte, bool) {
	content := w.value[s.from:s.to]
	switch f.op {
	case opString:
		return appendString(b, content), true
	case opMessage:
		return w.object(b, f.message, s, free, depth+1)
	case opBytes:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, content)
		return append(b, '"'), true
	case opTime, opMicroTime:
		return appendTime(b, content, f.op == opMicroTime)
	case opQuantity:
		return appendQuantity(b, content)
	case opIntOrString:
		return appendIntOrString(b, content)
	case opFields:
		return w.appendFields(b, content)
	}
	value, _ := varint(content)
	switch f.op {
	case opBool:
		return strconv.AppendBool(b, value != 0), true
	case opInt32:
		return strconv.AppendInt(b, int64(int32(value)), 10), true //nolint:gosec // the same bits
	default:
		return strconv.AppendInt(b, int64(value), 10), true //nolint:gosec // the same bits
	}
}

// next returns the content of the occurrence of a repeated field at the beginning of s, and
// what follows it. scan has been over both.
func (w *writer) next(f *field, s span) (content, rest span) {
	from := s.from + uint32(f.tag)
	value, size := varint(w.value[from:s.to])
	to := from + uint32(size) //nolint:gosec // at most 10
	if f.wire == wireBytes {
		from, to = to, to+uint32(value) //nolint:gosec // within the value
	}
	return span{from, to}, span{to, s.to}
}

func (w *writer) list(b []byte, f *field, s span, free, depth int) ([]byte, bool) {
	b = append(b, '[')
	for first := true; s.from < s.to; first = false {
		if !first {
			b = append(b, ',')
		}
		var content span
		var ok bool
		content, s = w.next(f, s)
		if b, ok = w.one(b, f, content, free, depth); !ok {
			return b, false
		}
	}
	return append(b, ']'), true
}

// keyed writes a map. Its entries must have different keys and be sorted by them.
func (w *writer) keyed(b []byte, f *field, s span, free, depth int) ([]byte, bool) {
	b = append(b, '{')
	var last []byte
	for first := true; s.from < s.to; first = false {
		var entry span
		entry, s = w.next(f, s)
		key, rest, ok := w.entryField(entry, 1)
		if !ok {
			return b, false
		}
		content, rest, ok := w.entryField(rest, 2)
		name := w.value[key.from:key.to]
		if !ok || rest.from != rest.to || !first && string(last) >= string(name) {
			return b, false
		}
		if last = name; !first {
			b = append(b, ',')
		}
		b = appendString(b, name)
		b = append(b, ':')
		if b, ok = w.one(b, f, content, free, depth); !ok {
			return b, false
		}
	}
	return append(b, '}'), true
}

// entryField reads the key (number 1) or the value (number 2) of an entry of a map.
func (w *writer) entryField(s span, number byte) (content, rest span, ok bool) {
	if s.from == s.to || w.value[s.from] != number<<3|wireBytes {
		return span{}, span{}, false
	}
	length, size := varint(w.value[s.from+1 : s.to])
	from := s.from + 1 + uint32(size) //nolint:gosec // at most 10
	if size == 0 || length > uint64(s.to-from) {
		return span{}, span{}, false
	}
	to := from + uint32(length) //nolint:gosec // within the value
	return span{from, to}, span{to, s.to}, true
}

// decode writes a message that no plan describes.
func (w *writer) decode(b []byte, m *message, s span) ([]byte, bool) {
	into := reflect.New(m.goType).Interface()
	if err := into.(unmarshaler).Unmarshal(w.value[s.from:s.to]); err != nil {
		return b, false
	}
	text, err := json.Marshal(into)
	return append(b, text...), err == nil
}
