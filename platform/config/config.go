// Package config reads a component's configuration file strictly: an unknown
// field, a wrong kind or a missing required field is an error that names it.
package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	configv1 "kijabi.dev/platform/config/v1"
)

// Validator is what a configuration implements to check more than presence.
type Validator interface {
	// Validate returns an error that names the field, the cause and the fix.
	Validate() error
}

// Load reads the YAML file at path over the defaults that into holds, and checks
// it. Into points to a configuration struct of platform/config/v1, or to one that
// follows its rules: a field whose JSON tag has neither omitempty nor omitzero is
// required, which means that it must not be zero once file and defaults are
// merged. A required bool may be false.
func Load(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := Parse(data, into); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

// Parse is Load for content already read.
func Parse(data []byte, into any) error {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() || target.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("configuration is read into a pointer to a struct, not into %T", into)
	}
	encoded, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return err
	}
	strict, err := json.UnmarshalStrict(encoded, into) // the standard one ignores the case of names
	if err := errors.Join(append(strict, err)...); err != nil {
		return err
	}
	return Check(into)
}

// Check verifies type, presence and, where the configuration is a Validator,
// its own rules. All missing fields are reported at once.
func Check(cfg any) error {
	value := reflect.Indirect(reflect.ValueOf(cfg))
	if err := checkType(value); err != nil {
		return err
	}
	if missing := missingFields(value, ""); len(missing) > 0 {
		return fmt.Errorf("required and not set: %s", strings.Join(missing, ", "))
	}
	if v, ok := cfg.(Validator); ok {
		return v.Validate()
	}
	return nil
}

// checkType compares apiVersion and kind with what the Go type stands for.
func checkType(value reflect.Value) error {
	field := value.FieldByName("TypeMeta")
	if !field.IsValid() {
		return nil
	}
	meta, ok := field.Interface().(configv1.TypeMeta)
	if !ok {
		return nil
	}
	if meta.APIVersion != configv1.APIVersion {
		return fmt.Errorf("apiVersion is %q, want %q", meta.APIVersion, configv1.APIVersion)
	}
	if want := value.Type().Name(); meta.Kind != want {
		return fmt.Errorf("kind is %q, want %q: is this another component's file?", meta.Kind, want)
	}
	return nil
}

// missingFields lists the paths of required fields that are zero.
func missingFields(value reflect.Value, prefix string) []string {
	var missing []string
	for i := range value.NumField() {
		field := value.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if field.Anonymous || strings.Contains(options, "inline") {
			missing = append(missing, missingFields(value.Field(i), prefix)...)
			continue
		}
		if strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") {
			missing = append(missing, missingInside(value.Field(i), prefix+name)...)
			continue
		}
		missing = append(missing, missingRequired(value.Field(i), prefix+name)...)
	}
	return missing
}

// missingRequired checks one required field.
func missingRequired(value reflect.Value, path string) []string {
	switch value.Kind() {
	case reflect.Struct:
		return missingFields(value, path+".")
	case reflect.Bool:
		return nil
	case reflect.Slice, reflect.Map:
		if value.Len() == 0 {
			return []string{path}
		}
		return missingInside(value, path)
	default:
		if value.IsZero() {
			return []string{path}
		}
		return nil
	}
}

// missingInside checks the elements of a list of structs, wherever it stands.
func missingInside(value reflect.Value, path string) []string {
	if value.Kind() != reflect.Slice || value.Type().Elem().Kind() != reflect.Struct {
		return nil
	}
	var missing []string
	for i := range value.Len() {
		missing = append(missing, missingFields(value.Index(i), fmt.Sprintf("%s[%d].", path, i))...)
	}
	return missing
}
