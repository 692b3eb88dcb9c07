package command

import (
	"fmt"
	"io"
	"strconv"
	"time"

	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"

	"kijabi.dev/cli/internal/output"
)

// Controllers is what `kijabi controllers -o json` prints.
type Controllers struct {
	// Master that leads and was asked.
	Master string `json:"master"`
	// Epoch that the loops run under.
	Epoch uint64 `json:"epoch"`
	// Loops by name.
	Loops []Loop `json:"loops"`
}

// Loop is one control loop. Counts are since its program started.
type Loop struct {
	Name string `json:"name"`
	// State is running, paused or stopped; stopped where the master does not lead any more.
	State string `json:"state"`
	// PausedSince is missing while the loop is not paused.
	PausedSince *time.Time `json:"pausedSince,omitempty"`
	// Depth is how much is due, Delayed how much will be at a known time.
	Depth   int64 `json:"depth"`
	Delayed int64 `json:"delayed"`
	// Oldest has been due for longest; missing if nothing is due.
	Oldest *Aged `json:"oldest,omitempty"`
	// Active is how much is in work, Longest what has been so for longest.
	Active  int64 `json:"active"`
	Longest *Aged `json:"longest,omitempty"`
	// RatePerSecond is the mean of the last minute.
	RatePerSecond float64 `json:"ratePerSecond"`
	Reconciles    int64   `json:"reconciles"`
	Failures      int64   `json:"failures"`
	// Retries count failures and conflicts.
	Retries int64 `json:"retries"`
	// LastError is missing if nothing failed.
	LastError *LoopError `json:"lastError,omitempty"`
}

// Aged is something and since how long.
type Aged struct {
	Key     string  `json:"key"`
	Seconds float64 `json:"seconds"`
}

// LoopError is a failure.
type LoopError struct {
	Key   string    `json:"key"`
	Error string    `json:"error"`
	Time  time.Time `json:"time"`
}

// States of a loop.
const (
	loopRunning = "running"
	loopPaused  = "paused"
	loopStopped = "stopped"
)

func controllersOf(master string, answer *controllermanagerv1pb.ListLoopsResponse) *Controllers {
	all := &Controllers{Master: master, Epoch: answer.GetEpoch(), Loops: []Loop{}}
	for _, l := range answer.GetLoops() {
		loop := Loop{
			Name: l.GetName(), State: loopRunning, Depth: l.GetDepth(), Delayed: l.GetDelayed(), Active: l.GetActive(), RatePerSecond: l.GetRate(),
			Reconciles: l.GetReconciles(), Failures: l.GetFailures(), Retries: l.GetRetries(),
		}
		if key := l.GetOldestKey(); key != nil {
			loop.Oldest = &Aged{keyText(key), l.GetOldest().AsDuration().Seconds()}
		}
		if key := l.GetLongestKey(); key != nil {
			loop.Longest = &Aged{keyText(key), l.GetLongest().AsDuration().Seconds()}
		}
		if failure := l.GetLastFailure(); failure != nil {
			loop.LastError = &LoopError{Key: keyText(failure.GetKey()), Error: failure.GetError(), Time: failure.GetTime().AsTime()}
		}
		switch {
		case l.GetPaused():
			since := l.GetPausedSince().AsTime()
			loop.State, loop.PausedSince = loopPaused, &since
		case !answer.GetRunning():
			loop.State = loopStopped
		}
		all.Loops = append(all.Loops, loop)
	}
	return all
}

func keyText(key *controllermanagerv1pb.Key) string {
	if key.GetNamespace() == "" {
		return key.GetName()
	}
	return key.GetNamespace() + "/" + key.GetName()
}

func (c *Controllers) print(out io.Writer, now time.Time) error {
	rows := make([][]string, 0, len(c.Loops))
	for i := range c.Loops {
		rows = append(rows, c.Loops[i].row(now))
	}
	return output.Table(out, []string{"NAME", "STATE", "QUEUE", "OLDEST", "ACTIVE", "RATE", "FAILURES", "LAST ERROR"}, rows)
}

// errorWidth is how much of an error the table shows; JSON has it all.
const errorWidth = 100

func (l *Loop) row(now time.Time) []string {
	state, queue, active, failed := l.State, strconv.FormatInt(l.Depth, 10), strconv.FormatInt(l.Active, 10), ""
	if l.PausedSince != nil {
		state += " for " + ageText(now.Sub(*l.PausedSince))
	}
	if l.Delayed > 0 {
		queue += fmt.Sprintf(" +%d", l.Delayed)
	}
	if l.Longest != nil && l.Longest.Seconds >= 1 {
		active += fmt.Sprintf(" (%s)", l.Longest.text())
	}
	if e := l.LastError; e != nil {
		failed = fmt.Sprintf("%s ago, %s: %s", ageText(now.Sub(e.Time)), e.Key, e.Error)
		if runes := []rune(failed); len(runes) > errorWidth {
			failed = string(runes[:errorWidth-1]) + "…"
		}
	}
	return []string{l.Name, state, queue, l.Oldest.text(), active, fmt.Sprintf("%.2f/s", l.RatePerSecond), strconv.FormatInt(l.Failures, 10), failed}
}

func (a *Aged) text() string {
	if a == nil {
		return ""
	}
	return ageText(time.Duration(a.Seconds*float64(time.Second))) + " " + a.Key
}

// ageText is a time as people read it. Clocks of two machines may differ: it is never negative.
func ageText(age time.Duration) string {
	age = max(age, 0)
	switch {
	case age < time.Second:
		return age.Round(time.Millisecond).String()
	case age < time.Minute:
		return age.Round(time.Second).String()
	case age < time.Hour:
		return fmt.Sprintf("%dm", int(age.Minutes()))
	default:
		return fmt.Sprintf("%dh%02dm", int(age.Hours()), int(age.Minutes())%60)
	}
}
