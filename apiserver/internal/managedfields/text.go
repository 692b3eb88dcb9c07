package managedfields

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// keyKind is the type of a key. The order is that of values in FieldsV1.
type keyKind uint8

const (
	noKey keyKind = iota
	numberKey
	textKey
	boolKey
	nullKey
)

// keyValue is the value of a key of a list's item.
type keyValue struct {
	kind   keyKind
	text   string
	number int64 // of a bool: 0 or 1
}

func (a keyValue) compare(b keyValue) int {
	switch {
	case a.kind != b.kind:
		return int(a.kind) - int(b.kind)
	case a.kind == textKey:
		return strings.Compare(a.text, b.text)
	case a.number < b.number:
		return -1
	case a.number > b.number:
		return 1
	}
	return 0
}

func (a keyValue) append(to []byte) []byte {
	switch a.kind {
	case numberKey:
		return strconv.AppendInt(to, a.number, 10)
	case boolKey:
		return strconv.AppendBool(to, a.number != 0)
	case textKey:
		return appendString(to, a.text, true)
	}
	return append(to, "null"...)
}

// appendField writes the key of a field or of a map's entry.
func appendField(to []byte, name string) []byte {
	if plain(name, false) {
		to = append(to, `"f:`...)
		to = append(to, name...)
		return append(to, `":`...)
	}
	return append(appendString(to, "f:"+name, false), ':')
}

// plain tells whether a string stands for itself in JSON.
func plain(s string, html bool) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || html && (c == '<' || c == '>' || c == '&' || c >= utf8.RuneSelf) {
			return false
		}
	}
	return true
}

// appendString writes a JSON string as structured-merge-diff does, for which keys and
// what is in keys differ: html escapes what matters in HTML, and replaces bytes that are no UTF-8.
func appendString[S string | []byte](to []byte, s S, html bool) []byte {
	const digits = "0123456789abcdef"
	to = append(to, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c == '\n':
			to = append(to, '\\', 'n')
		case c == '\r':
			to = append(to, '\\', 'r')
		case c == '\t':
			to = append(to, '\\', 't')
		case c < ' ' || html && (c == '<' || c == '>' || c == '&'):
			to = append(to, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		case c < utf8.RuneSelf || !html:
			to = append(to, c)
		default:
			r, size := utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)]))
			switch {
			case r == utf8.RuneError && size == 1:
				to = append(to, `\ufffd`...)
			case r == '\u2028' || r == '\u2029':
				to = append(to, `\u202`...)
				to = append(to, digits[r&15])
			default:
				to = append(to, s[i:i+size]...)
			}
			i += size
			continue
		}
		i++
	}
	return append(to, '"')
}
