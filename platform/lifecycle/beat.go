package lifecycle

import "time"

// UntilBeat is the time until now is a whole multiple of period. Periodic tasks that sleep
// so wake together: on an idle machine a wake-up costs more than what most of them do. Use it for
// looks that are repeated, not where tasks of several machines should keep apart.
func UntilBeat(now time.Time, period time.Duration) time.Duration {
	return period - now.Sub(now.Truncate(period))
}
