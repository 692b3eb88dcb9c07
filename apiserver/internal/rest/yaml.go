package rest

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"unicode/utf16"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// marshalYAML writes what encoding/json can write.
func marshalYAML(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonToYAML(text)
}

// jsonToYAML reads JSON as YAML, which it nearly is: YAML takes neither all characters that may
// stand in JSON's strings nor characters escaped as surrogate pairs (YAML 1.2, sections 5.1 and 5.7).
func jsonToYAML(text []byte) ([]byte, error) { return yaml.JSONToYAML(asYAML(text)) }

// asYAML escapes what YAML does not take, and writes out what it takes only so. All of that is
// in strings. Text without any is returned as it is.
func asYAML(text []byte) []byte {
	var out []byte
	done := 0 // of text is in out
	replace := func(at, n int, by []byte) {
		out = append(append(out, text[done:at]...), by...)
		done = at + n
	}
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '\\':
			n, char := surrogates(text[i:])
			if n > 2 {
				replace(i, n, utf8.AppendRune(nil, char))
			}
			i += n
		case c == 0x7f:
			replace(i, 1, []byte(`\u007f`))
			i++
		case c < utf8.RuneSelf:
			i++
		default:
			char, n := utf8.DecodeRune(text[i:])
			if char >= 0x80 && char < 0xa0 || char == 0xfeff || char == 0xfffe || char == 0xffff {
				digits := hex.AppendEncode(nil, binary.BigEndian.AppendUint16(nil, uint16(char))) //nolint:gosec // it is that small
				replace(i, n, append([]byte(`\u`), digits...))
			}
			i += n
		}
	}
	if done == 0 {
		return text
	}
	return append(out, text[done:]...)
}

// surrogates reads an escape. Of a surrogate, or a pair, it returns the length and the character
// that is meant; of others 2, which is at least the part that matters.
func surrogates(text []byte) (n int, char rune) {
	high, ok := escaped(text)
	if !ok || !utf16.IsSurrogate(high) {
		return min(2, len(text)), 0
	}
	if low, ok := escaped(text[6:]); ok {
		if char := utf16.DecodeRune(high, low); char != utf8.RuneError {
			return 12, char
		}
	}
	return 6, utf8.RuneError
}

// escaped is the number of an escape such as \u00e9.
func escaped(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	var number [2]byte
	if _, err := hex.Decode(number[:], text[2:6]); err != nil {
		return 0, false
	}
	return rune(binary.BigEndian.Uint16(number[:])), true
}
