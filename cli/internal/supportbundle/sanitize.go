package supportbundle

import (
	"fmt"
	"regexp"
	"sync"
)

// annotationLimit is the length from which an annotation holds a document rather than a
// word. kubectl keeps the whole applied object in one, with its environment.
const annotationLimit = 128

// shorten removes the values of long annotations.
func shorten(annotations any) {
	all, _ := annotations.(map[string]any)
	for name, value := range all {
		if text, ok := value.(string); ok && len(text) > annotationLimit {
			all[name] = fmt.Sprintf("[removed: %d bytes]", len(text))
		}
	}
}

// empty removes all values of a map and keeps its keys.
func empty(values any) {
	all, _ := values.(map[string]any)
	for name, value := range all {
		if text, ok := value.(string); ok {
			all[name] = fmt.Sprintf("[removed: %d bytes]", len(text))
		} else {
			all[name] = Removed
		}
	}
}

// strip removes what objects and the templates in them may hold: long annotations, values
// of environment variables and of probes' headers, attributes of volumes, and options of
// commands that name a secret.
func strip(value any) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			strip(item)
		}
	case map[string]any:
		for name, field := range value {
			switch name {
			case "annotations":
				shorten(field)
			case "env", "httpHeaders":
				stripValues(field)
			case "command", "args":
				stripOptions(field)
			case "volumeAttributes":
				empty(field)
			}
			strip(field)
		}
	}
}

// stripValues empties the value of each {name, value}.
func stripValues(list any) {
	items, _ := list.([]any)
	for _, item := range items {
		if fields, ok := item.(map[string]any); ok {
			if _, has := fields["value"]; has {
				fields["value"] = Removed
			}
		}
	}
}

// secretOption is an option whose value is the next word.
var secretOption = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)^--?[a-z0-9_.-]*` + secretWords + `$`)
})

// stripOptions removes the word after an option that names a secret. Those of the form
// --option=value are left to Redact.
func stripOptions(list any) {
	words, _ := list.([]any)
	for i := 1; i < len(words); i++ {
		if option, ok := words[i-1].(string); ok && secretOption().MatchString(option) {
			words[i] = Removed
		}
	}
}
