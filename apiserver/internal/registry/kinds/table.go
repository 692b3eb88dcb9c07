package kinds

import "sync"

// Options of the table.
type Options struct {
	// TolerationSeconds is how long pods stay on a node that is not ready or cannot be
	// reached, unless they say otherwise. Default 30.
	TolerationSeconds int64
}

// All returns the whole table in discovery order: core first, then groups by name.
func All(options Options) []*Kind {
	if options.TolerationSeconds == 0 {
		options.TolerationSeconds = 30
	}
	events := event()
	return []*Kind{
		configMap(), events, namespace(), node(), pod(options), secret(), serviceAccount(), service(),
		deployment(), replicaSet(),
		lease(),
		endpointSlice(),
		newEvent(events),
		clusterRoleBinding(), clusterRole(), roleBinding(), role(),
	}
}

// defaultTable serves callers without options of their own, such as printers.
var defaultTable = sync.OnceValue(func() []*Kind { return All(Options{}) })

// Default returns the table with default options. It is shared.
func Default() []*Kind { return defaultTable() }
