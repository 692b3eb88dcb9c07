package workload

import "sync/atomic"

// gentleShare is which part of its calls a client makes while it is gentle: one of so many.
const gentleShare = 100

// Pace is how busy all clients are; the zero value is as busy as they can. It is safe for concurrent use.
type Pace struct{ gentle atomic.Bool }

// Gentle says whether clients do next to nothing for a while, so that the cluster is idle.
func (p *Pace) Gentle(on bool) { p.gentle.Store(on) }

// due says whether a client makes its n-th call.
func (p *Pace) due(n int) bool { return !p.gentle.Load() || n%gentleShare == 0 }
