package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is the state of one object. Versions that only writes of unknown outcome can
// have made are not known until somebody reads them.
type register struct {
	exists  bool
	value   string
	version uint64 // 0: not known
	// floor is the newest version known to have been given; a later one is higher.
	floor uint64
}

// Linearizable checks the history of each key apart. It returns what is wrong, and counts the
// keys that were checked. A key whose check does not end within limit counts as wrong.
func Linearizable(operations []Operation, limit time.Duration) (violations []string, keys int) {
	byKey := map[string][]porcupine.Operation{}
	for _, o := range operations {
		returned := int64(o.Returned)
		if o.Outcome == Unknown {
			if o.Verb == Get {
				continue
			}
			returned = math.MaxInt64
		}
		byKey[o.Key] = append(byKey[o.Key], porcupine.Operation{
			ClientId: o.Client, Input: o, Output: o.Outcome, Call: int64(o.Called), Return: returned,
		})
	}
	for key, ops := range byKey {
		switch porcupine.CheckOperationsTimeout(model(), ops, limit) {
		case porcupine.Illegal:
			violations = append(violations, fmt.Sprintf("the history of %s is not linearizable:\n%s", key, describe(ops)))
		case porcupine.Unknown:
			violations = append(violations, fmt.Sprintf("the history of %s, %d operations, could not be checked within %s", key, len(ops), limit))
		}
	}
	return violations, len(byKey)
}

// Resolve replaces writes of unknown outcome by what became of them: happened returns the version
// that one has made, 0 when it has made none. When its client would have been told stays open.
func Resolve(operations []Operation, happened func(Operation) uint64) []Operation {
	resolved := make([]Operation, 0, len(operations))
	for _, o := range operations {
		if o.Outcome == Unknown {
			if o.Version = happened(o); o.Version == 0 {
				continue
			}
			o.Outcome, o.Returned = OK, math.MaxInt64
		}
		resolved = append(resolved, o)
	}
	return resolved
}

func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var text strings.Builder
	for _, op := range ops {
		fmt.Fprintln(&text, " ", op.Input)
	}
	return text.String()
}

func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, input, _ any) (bool, any) { return step(state.(register), input.(Operation)) },
	}
}

// step says whether an operation can have had its outcome in a state, and what follows.
func step(s register, o Operation) (bool, register) {
	switch o.Verb {
	case Get:
		return get(s, o)
	case Create:
		return create(s, o)
	default:
		return change(s, o)
	}
}

func get(s register, o Operation) (bool, register) {
	if o.Outcome == NotFound {
		return !s.exists, s
	}
	if !s.exists || s.value != o.Read || !s.mayHave(o.Version) {
		return false, s
	}
	return true, s.learned(o.Version)
}

func create(s register, o Operation) (bool, register) {
	switch o.Outcome {
	case Exists:
		return s.exists, s
	case OK:
		return !s.exists && o.Version > s.floor, register{exists: true, value: o.Value, version: o.Version, floor: o.Version}
	}
	if s.exists {
		return true, s // it did not happen, or not now
	}
	return true, register{exists: true, value: o.Value, floor: s.floor}
}

// change is an update or a deletion, conditional or not.
func change(s register, o Operation) (bool, register) {
	possible := s.exists && (o.Expected == 0 || s.mayHave(o.Expected))
	switch o.Outcome {
	case NotFound:
		return !s.exists, s
	case Conflict:
		return s.exists && o.Expected != 0 && s.version != o.Expected, s
	case OK:
		if !possible || o.Version <= max(s.floor, o.Expected) {
			return false, s
		}
	default:
		if !possible {
			return true, s
		}
	}
	next := register{exists: o.Verb == Update, version: o.Version, floor: max(s.floor, o.Expected, o.Version)}
	if next.exists {
		next.value = o.Value
	} else {
		next.version = 0
	}
	return true, next
}

// mayHave says whether the state's version can be the given one.
func (s register) mayHave(version uint64) bool {
	return s.version == version || s.version == 0 && version > s.floor
}

func (s register) learned(version uint64) register {
	s.version, s.floor = version, version
	return s
}
