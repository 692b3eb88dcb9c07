package transcode

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Sets of ASCII characters that stand for themselves within a JSON string, one bit each.
// The others are control characters, quotes, backslashes and, for the sake of pages that
// embed JSON, <, > and &.
const (
	plainBelow64 uint64 = 1<<64 - 1<<32 - 1<<'"' - 1<<'&' - 1<<'<' - 1<<'>'
	plainFrom64  uint64 = 1<<64 - 1 - 1<<('\\'-64)
)

func plain(c byte) bool {
	if c < 64 {
		return plainBelow64>>c&1 != 0
	}
	return c < utf8.RuneSelf && plainFrom64>>(c-64)&1 != 0
}

const (
	eachByte = 0x0101010101010101
	eachHigh = 0x8080808080808080
)

// plainWord tells whether eight characters stand for themselves.
func plainWord(x uint64) bool {
	low := x - 0x20*eachByte
	quote := (x | 4*eachByte) ^ '&'*eachByte // " and & differ in one bit
	angle := (x | 2*eachByte) ^ '>'*eachByte // so do < and >
	slash := x ^ '\\'*eachByte
	// The high bit of a byte is set if subtracting made it negative: the byte was zero.
	found := low&^x | (quote-eachByte)&^quote | (angle-eachByte)&^angle | (slash-eachByte)&^slash
	return (found|x)&eachHigh == 0
}

// plainPrefix returns how many leading bytes stand for themselves; it may stop early.
func plainPrefix(s []byte) int {
	i := 0
	for i+8 <= len(s) && plainWord(binary.LittleEndian.Uint64(s[i:])) {
		i += 8
	}
	for i < len(s) && plain(s[i]) {
		i++
	}
	return i
}

// appendString writes a string as encoding/json does for HTML.
func appendString(b, s []byte) []byte {
	b = append(b, '"')
	for {
		n := plainPrefix(s)
		b = append(b, s[:n]...)
		if s = s[n:]; len(s) == 0 {
			return append(b, '"')
		}
		b, n = appendEscaped(b, s)
		s = s[n:]
	}
}

// appendEscaped writes the first character of s and returns its length.
func appendEscaped(b, s []byte) ([]byte, int) {
	const digits = "0123456789abcdef"
	c := s[0]
	if c < utf8.RuneSelf {
		switch c {
		case '"', '\\':
			return append(b, '\\', c), 1
		case '\b':
			return append(b, `\b`...), 1
		case '\f':
			return append(b, `\f`...), 1
		case '\n':
			return append(b, `\n`...), 1
		case '\r':
			return append(b, `\r`...), 1
		case '\t':
			return append(b, `\t`...), 1
		default:
			return append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15]), 1
		}
	}
	r, size := utf8.DecodeRune(s)
	switch {
	case r == utf8.RuneError && size == 1:
		return append(b, `\ufffd`...), 1
	case r == '\u2028':
		return append(b, `\u2028`...), size
	case r == '\u2029':
		return append(b, `\u2029`...), size
	default:
		return append(b, s[:size]...), size
	}
}

// timestamp reads the encoding of a time; ok is false if it is not as encoders write it.
func timestamp(s []byte) (seconds int64, nanos int32, ok bool) {
	const secondsTag, nanosTag = 1<<3 | wireVarint, 2<<3 | wireVarint
	if len(s) == 0 || s[0] != secondsTag {
		return 0, 0, false
	}
	value, n := varint(s[1:])
	if n == 0 {
		return 0, 0, false
	}
	seconds = int64(value) //nolint:gosec // the same bits
	if s = s[1+n:]; len(s) == 0 {
		return seconds, 0, true
	}
	if s[0] != nanosTag {
		return 0, 0, false
	}
	value, n = varint(s[1:])
	return seconds, int32(value), n != 0 && n == len(s)-1 //nolint:gosec // the same bits
}

// moment is an encoded metav1.Time, or MicroTime.
func moment(s []byte, micro bool) (time.Time, bool) {
	if len(s) == 0 {
		return time.Time{}, true
	}
	seconds, nanos, ok := timestamp(s)
	if !micro {
		nanos = 0
	}
	return time.Unix(seconds, int64(time.Duration(nanos).Truncate(time.Microsecond))), ok
}

func isZeroTime(s []byte, micro bool) bool {
	t, ok := moment(s, micro)
	return ok && t.IsZero()
}

func appendTime(b, s []byte, micro bool) ([]byte, bool) {
	t, ok := moment(s, micro)
	if !ok {
		return b, false
	}
	if t.IsZero() {
		return append(b, "null"...), true
	}
	layout := time.RFC3339
	if micro {
		layout = metav1.RFC3339Micro
	}
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, layout)
	return append(b, '"'), true
}

// wrapped returns the content of a message whose only field, number 1, is a string or bytes.
func wrapped(s []byte) ([]byte, bool) {
	if len(s) == 0 || s[0] != 1<<3|wireBytes {
		return nil, false
	}
	size, n := varint(s[1:])
	if n == 0 || size != uint64(len(s)-1-n) {
		return nil, false
	}
	return s[1+n:], true
}

func appendQuantity(b, s []byte) ([]byte, bool) {
	if len(s) == 0 {
		return append(b, `"0"`...), true
	}
	text, ok := wrapped(s)
	if !ok {
		return b, false
	}
	if canonical(text) {
		b = append(b, '"')
		b = append(b, text...)
		return append(b, '"'), true
	}
	q, err := resource.ParseQuantity(string(text))
	if err != nil {
		return b, false
	}
	out, err := q.MarshalJSON()
	return append(b, out...), err == nil
}

// canonical recognises most quantities that are written as they are read: a small number
// that its suffix does not make needlessly long.
func canonical(s []byte) bool {
	n, digits := 0, 0
	for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' {
		n = 10*n + int(s[digits]-'0')
		if digits++; digits > 9 {
			return false
		}
	}
	if digits == 0 || s[0] == '0' {
		return string(s) == "0"
	}
	switch string(s[digits:]) {
	case "", "m", "k", "M", "G":
		return n%1000 != 0
	case "Ki", "Mi", "Gi":
		return n%1024 != 0
	default:
		return false
	}
}

// appendIntOrString writes an intstr.IntOrString: type, number and string are its fields.
func appendIntOrString(b, s []byte) ([]byte, bool) {
	if len(s) == 0 {
		return append(b, '0'), true
	}
	kind, rest, ok := varintField(s, 1)
	if !ok {
		return b, false
	}
	number, rest, ok := varintField(rest, 2)
	if !ok || len(rest) == 0 || rest[0] != 3<<3|wireBytes {
		return b, false
	}
	size, n := varint(rest[1:])
	if n == 0 || size != uint64(len(rest)-1-n) {
		return b, false
	}
	switch kind {
	case 0:
		return strconv.AppendInt(b, int64(int32(number)), 10), true //nolint:gosec // the same bits
	case 1:
		return appendString(b, rest[1+n:]), true
	default:
		return b, false
	}
}

func varintField(s []byte, number byte) (value uint64, rest []byte, ok bool) {
	if len(s) == 0 || s[0] != number<<3|wireVarint {
		return 0, nil, false
	}
	value, n := varint(s[1:])
	return value, s[1+n:], n != 0
}

// appendFields writes a metav1.FieldsV1, which is JSON already.
func (w *writer) appendFields(b, s []byte) ([]byte, bool) {
	if len(s) == 0 {
		return append(b, "null"...), true
	}
	raw, ok := wrapped(s)
	if !ok {
		return b, false
	}
	if bytes.Equal(raw, w.owned) || compactFields(raw) {
		w.owned = append(w.owned[:0], raw...)
		return append(b, raw...), true
	}
	out, err := json.Marshal(metav1.NewFieldsV1(string(raw)))
	return append(b, out...), err == nil
}

// compactFields recognises a set of fields that encoding/json would copy as it is: objects
// in objects without a space, whose keys need no escape but quotes and backslashes.
func compactFields(s []byte) bool {
	depth, i := 0, 0
	for i < len(s) {
		if s[i] != '{' || depth > 100 {
			return false
		}
		depth++
		i++
		if i < len(s) && s[i] == '}' {
			// Every set that is open may end here.
			for i < len(s) && s[i] == '}' && depth > 0 {
				depth--
				i++
			}
			if depth == 0 {
				return i == len(s)
			}
			if i == len(s) || s[i] != ',' {
				return false
			}
			i++
		}
		n := key(s[i:])
		if n == 0 {
			return false
		}
		i += n
	}
	return false
}

// key returns the length of a leading `"text":`, 0 if there is none.
func key(s []byte) int {
	if len(s) == 0 || s[0] != '"' {
		return 0
	}
	for i := 1; ; {
		i += plainPrefix(s[i:])
		switch {
		case i+1 >= len(s):
			return 0
		case s[i] == '\\' && (s[i+1] == '"' || s[i+1] == '\\'):
			i += 2
		case s[i] == '"' && s[i+1] == ':':
			return i + 2
		default:
			return 0
		}
	}
}
