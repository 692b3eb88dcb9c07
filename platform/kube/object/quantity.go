package object

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/resource"
)

// maxQuantity bounds the text of a quantity, in bytes. The largest that means something,
// 2^63-1, has 19 digits.
const maxQuantity = 64

// maxExponent is the most digits of an exponent.
const maxExponent = 3

// costly tells whether text may hold a quantity which apimachinery takes minutes and
// gigabytes to parse, compare or add: it reckons with all digits of "1e2147483647". Characters
// of one may also hide in the escapes of JSON.
func costly(text []byte) bool {
	run := 0 // of digits and points
	for i, c := range text {
		switch {
		case c >= '0' && c <= '9' || c == '.':
			if run++; run > maxQuantity {
				return true
			}
			continue
		case (c == 'e' || c == 'E') && longExponent(text[i+1:]):
			return true
		case c == '\\' && hidden(text[i+1:]):
			return true
		}
		run = 0
	}
	return false
}

// longExponent tells whether text begins with an exponent of more than maxExponent digits.
func longExponent(text []byte) bool {
	if len(text) > 0 && (text[0] == '+' || text[0] == '-') {
		text = text[1:]
	}
	if len(text) <= maxExponent {
		return false
	}
	for _, c := range text[:maxExponent+1] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// hidden tells whether text is an escape, without its backslash, of a character of a number.
func hidden(text []byte) bool {
	if len(text) < 5 || string(text[:3]) != "u00" {
		return false
	}
	switch first, second := text[3], text[4]|0x20; first {
	case '2':
		return second == 'b' || second == 'd' || second == 'e'
	case '3':
		return text[4] >= '0' && text[4] <= '9'
	default:
		return (first == '4' || first == '6') && text[4] == '5'
	}
}

// CheckJSON refuses JSON of an object whose quantities are too costly to read; it must be
// asked before the text is decoded. into is a pointer to the object's type and is not used
// otherwise. That the text is no JSON at all is left to its decoder.
func CheckJSON(text []byte, into any) error {
	if !costly(text) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return checkValue(d, reflect.TypeOf(into))
}

// CheckProtobuf does the same for a protobuf encoding.
func CheckProtobuf(encoding []byte, into any) error {
	if !costly(encoding) {
		return nil
	}
	return checkMessage(encoding, reflect.TypeOf(into))
}

func checkQuantity(text string) error {
	if at := strings.IndexAny(text, "eE"); len(text) > maxQuantity || at >= 0 && longExponent([]byte(text[at+1:])) {
		return fmt.Errorf("quantity %.32q is out of range", text)
	}
	return nil
}

// element takes pointers off a type; a nil type stands for one that has no quantities.
func element(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

var quantityType = reflect.TypeFor[resource.Quantity]()

// checkValue reads one value, which is decoded into a t. It sees what a decoder sees,
// repeated members included. A decoder's errors are not told.
func checkValue(d *json.Decoder, t reflect.Type) error {
	token, err := d.Token()
	if err != nil {
		return nil //nolint:nilerr // its decoder tells
	}
	t = element(t)
	switch token := token.(type) {
	case json.Number:
		if t == quantityType {
			return checkQuantity(token.String())
		}
	case string:
		if t == quantityType {
			return checkQuantity(token)
		}
	case json.Delim:
		var inner reflect.Type
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Map) {
			inner = t.Elem()
		}
		for d.More() {
			of := inner
			if token == '{' {
				name, err := d.Token()
				if err != nil {
					return nil //nolint:nilerr // its decoder tells
				}
				if t != nil && t.Kind() == reflect.Struct {
					of = membersOf(t).byName[fmt.Sprint(name)]
				}
			}
			if err := checkValue(d, of); err != nil {
				return err
			}
		}
		_, _ = d.Token() // the end; without one More was false for an error
	}
	return nil
}

// checkMessage looks through an encoded message, which is decoded into a t.
func checkMessage(message []byte, t reflect.Type) error {
	t = element(t)
	if t == nil {
		return nil
	}
	if t == quantityType {
		return EachField(message, func(_ protowire.Number, content []byte, _ uint64) error {
			return checkQuantity(string(content))
		})
	}
	switch t.Kind() {
	case reflect.Slice: // a list type of its own, such as v1.ClusterRoleList's items, is a message
		return checkMessage(message, t.Elem())
	case reflect.Map: // an entry: key 1, value 2
		return EachField(message, func(number protowire.Number, content []byte, _ uint64) error {
			if number != 2 {
				return nil
			}
			return checkMessage(content, t.Elem())
		})
	case reflect.Struct:
		of := membersOf(t).byNumber
		return EachField(message, func(number protowire.Number, content []byte, _ uint64) error {
			if inner, ok := of[number]; ok {
				return checkMessage(content, inner)
			}
			return nil
		})
	default:
		return nil
	}
}

// members are the types of a struct's fields that are not plain.
type members struct {
	byName   map[string]reflect.Type
	byNumber map[protowire.Number]reflect.Type
}

// knownMembers caches them by reflect.Type.
//
//nolint:gochecknoglobals // a cache of what the program's types are
var knownMembers sync.Map

func membersOf(t reflect.Type) *members {
	if known, ok := knownMembers.Load(t); ok {
		return known.(*members)
	}
	m := &members{byName: map[string]reflect.Type{}, byNumber: map[protowire.Number]reflect.Type{}}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if parts := strings.Split(f.Tag.Get("protobuf"), ","); len(parts) > 1 {
			if number, err := strconv.ParseInt(parts[1], 10, 32); err == nil {
				m.byNumber[protowire.Number(number)] = f.Type
			}
		}
		switch {
		case name != "":
			m.byName[name] = f.Type
		case f.Anonymous || strings.Contains(options, "inline"):
			for name, inner := range membersOf(element(f.Type)).byName {
				m.byName[name] = inner
			}
		}
	}
	knownMembers.Store(t, m)
	return m
}
