package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// Bounds of what one request may cost. The libraries that patch and merge take time and
// memory that grow with the product of what they are given, so the size of a body bounds
// neither. Each is far above what clients need, and about a second of one core.
const (
	// maxPatchBytes bounds a patch; Kubernetes has the same for every body.
	maxPatchBytes = 3 << 20
	// maxPatchOperations bounds the steps of a JSON patch, as in Kubernetes.
	maxPatchOperations = 10_000
	// maxArrayMoves bounds the elements that a JSON patch moves up or down in arrays: each
	// insertion copies the whole array. It lets the most steps work on an array of as many.
	maxArrayMoves = 128 << 20
	// maxListPairs bounds the pairs of elements that a strategic merge compares: it looks
	// for each element of a list in all of the other.
	maxListPairs = 64 << 20
	// maxMergedFields bounds the fields of an apply configuration, and of an object that
	// keeps a record of who owns what: sets of fields are sorted by insertion.
	maxMergedFields = 20_000
	// maxOwnedBytes bounds that record, for the same reason.
	maxOwnedBytes = 512 << 10
	// surelyFewFields is the size of an encoding that cannot hold more than maxMergedFields,
	// of at least 8 bytes each.
	surelyFewFields = 8 * maxMergedFields

	// maxDepth bounds the nesting of what clients send. No kind nests deeper than about 30;
	// Kubernetes stops at 10,000, which costs stacks of megabytes.
	maxDepth = 1000

	// maxSelectorBytes bounds a selector as the REST door's headers do.
	maxSelectorBytes = 64 << 10
	// maxRequirements bounds what is asked about each object of a collection.
	maxRequirements = 1000

	// maxReported bounds how many things wrong with an object are told.
	maxReported = 100
	// maxReportedValue bounds the bytes that are told of each.
	maxReportedValue = 1 << 10
	// maxComputing is the longest that a write may have taken to prepare and still be
	// computed again by the single writer, for which all others wait.
	maxComputing = 100 * time.Millisecond
)

// limitCopies sets the library's only limit, a variable of its own: of the bytes that the
// copy operations of a patch make. Without, thirty of them fill any memory.
//
//nolint:gochecknoglobals // once for the process, as what it sets
var limitCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxPatchBytes })

// CheckJSON refuses JSON of an object that would cost too much to decode. into is a pointer
// to the object's type and is not used otherwise.
func CheckJSON(text []byte, into any) error {
	if err := object.CheckDepth(text, maxDepth); err != nil {
		return err
	}
	return object.CheckJSON(text, into)
}

// IsJSON tells whether YAML is a JSON object, for which there are quicker decoders.
func IsJSON(text []byte) bool {
	text = bytes.TrimSpace(text)
	return len(text) > 0 && text[0] == '{' && object.CheckDepth(text, maxDepth) == nil && json.Valid(text)
}

func tooCostly(format string, args ...any) error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(format, args...))
}

// boundArrayMoves refuses JSON patches that move too many elements of arrays.
func boundArrayMoves(patch jsonpatch.Patch, original []byte) error {
	steps, elements := 0, bytes.Count(original, []byte{','})+len(patch)
	for _, operation := range patch {
		if value := operation["value"]; value != nil {
			elements += bytes.Count(*value, []byte{','})
		}
		for _, name := range [...]string{"path", "from"} {
			if pointer := operation[name]; pointer != nil && endsInIndex(*pointer) {
				steps++
				break
			}
		}
	}
	if steps*elements > maxArrayMoves {
		return tooCostly("the patch moves up to %d elements of arrays, the limit is %d: replace the arrays as a whole", steps*elements, maxArrayMoves)
	}
	return nil
}

// endsInIndex tells whether a quoted JSON pointer ends in a number.
func endsInIndex(quoted []byte) bool {
	var pointer string
	if json.Unmarshal(quoted, &pointer) != nil {
		return false // the patch is refused for it
	}
	_, err := strconv.Atoi(pointer[strings.LastIndexByte(pointer, '/')+1:])
	return err == nil
}

// boundListPairs refuses strategic merges that compare too many pairs of elements.
func boundListPairs(patch, original []byte) error {
	there := bytes.Count(original, []byte{','}) + 1
	if rough := bytes.Count(patch, []byte{','}) + 1; rough*(rough+there) <= maxListPairs {
		return nil
	}
	var content any
	if err := json.Unmarshal(patch, &content); err != nil {
		return nil //nolint:nilerr // who applies the patch says what is wrong with it
	}
	elements, longest := listElements(content)
	if pairs := elements * (longest + there); pairs > maxListPairs {
		return tooCostly("the patch compares up to %d pairs of list elements, the limit is %d: use a merge patch or an update", pairs, maxListPairs)
	}
	return nil
}

// listElements counts the elements of all lists, and of the longest.
func listElements(v any) (all, longest int) {
	add := func(v any) {
		a, l := listElements(v)
		all, longest = all+a, max(longest, l)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			add(member)
		}
	case []any:
		all, longest = len(v), len(v)
		for _, element := range v {
			add(element)
		}
	}
	return all, longest
}

// countFields counts what a record of owners would hold of v.
func countFields(v any) int {
	n := 1
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			n += countFields(member)
		}
	case []any:
		for _, element := range v {
			n += countFields(element)
		}
	}
	return n
}

// boundFields refuses to merge more fields than can be sorted in time.
func boundFields(v any) error {
	if n := countFields(v); n > maxMergedFields {
		return tooCostly("%d fields are more than apply can merge, the limit is %d", n, maxMergedFields)
	}
	return nil
}

// mergeable refuses objects whose fields are too many for a record of owners.
func mergeable(obj object.Object) error {
	owned := 0
	for _, entry := range obj.GetManagedFields() {
		if entry.FieldsV1 != nil {
			owned += len(entry.FieldsV1.GetRawBytes())
		}
	}
	if owned > maxOwnedBytes {
		return tooCostly("metadata.managedFields is %d bytes large, the limit is %d", owned, maxOwnedBytes)
	}
	if obj.Size()-owned <= surelyFewFields {
		return nil
	}
	text, err := json.Marshal(obj)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("encode as JSON: %w", err))
	}
	var content map[string]any
	if err := json.Unmarshal(text, &content); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("read own JSON: %w", err))
	}
	if meta, ok := content["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
	}
	return boundFields(content)
}

// boundSelector refuses label or field selectors that ask too much of each object.
func boundSelector(requirements int) error {
	if requirements > maxRequirements {
		return apierrors.NewBadRequest(fmt.Sprintf("the selector has %d requirements, the limit is %d", requirements, maxRequirements))
	}
	return nil
}

// reported bounds a list of errors, which goes to the client whole.
func reported(errs field.ErrorList) field.ErrorList {
	n := len(errs)
	if n > maxReported {
		errs = append(errs[:maxReported:maxReported], field.TooMany(field.NewPath("errors"), n, maxReported))
	}
	for _, err := range errs {
		if text, ok := err.BadValue.(string); ok {
			err.BadValue = truncate(text, maxReportedValue)
		}
	}
	return errs
}
