// Package dataplane says what kube-proxy wants of the thing that moves packets.
package dataplane

import (
	"context"

	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/kube-proxy/internal/services"
)

// Update is a set of changes.
type Update struct {
	// Full means that services not named here are gone. The first update is full.
	Full bool
	// Services holds the frontends of each changed service; none means that it is gone.
	// The plane keeps the slices and only reads them.
	Services map[types.NamespacedName][]services.Frontend
}

// Plane forwards connections to service addresses. Its methods may be called from
// several goroutines.
//
// What a plane has set up outlives it: connections and rules must survive a restart
// of the process. Only Clean removes them.
type Plane interface {
	// Sync makes the plane follow the update, which takes effect as a whole. After an
	// error the plane holds the update and tries again by itself while Run runs.
	Sync(Update) error
	// Run keeps the plane as it should be, against changes by others too, until ctx ends.
	Run(ctx context.Context) error
	// Clean removes everything the plane ever set up.
	Clean() error
	// Close lets go of the plane's sockets and leaves the rules.
	Close() error
}
