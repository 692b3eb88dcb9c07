package preflight

import (
	"context"
	"slices"
	"time"

	"kijabi.dev/platform/pki"

	"kijabi.dev/cli/internal/access"
)

const keepTime = "install and start chrony or systemd-timesyncd (`timedatectl set-ntp true`)"

// firstYear is before any Kijabi: a clock that shows less was never set.
const firstYear = 2026

func clockKept(_ context.Context, m *Machine, _ Target) Finding {
	now := m.Clock.Now().UTC()
	if now.Year() < firstYear {
		return fail("set the clock, then "+keepTime, "the clock shows %s: no certificate would be valid", now.Format(time.DateOnly))
	}
	kept, err := m.Kernel.Synchronised()
	switch {
	case err != nil:
		return warn(keepTime, "cannot see whether the clock is kept: %v", err)
	case !kept:
		return warn(keepTime, "the clock is kept by no time service: it may drift, until certificates are not valid and logs of machines do not match")
	}
	return okay("kept by a time service")
}

func master(ctx context.Context, m *Machine, t Target) Finding {
	if t.Join == "" {
		return okay("none to join through")
	}
	shown, err := m.Network.Greet(ctx, t.Join)
	if err != nil {
		return fail("is it a master's address, does it run, and does a firewall let port 6444 pass?",
			"no answer from %s: %s", t.Join, access.Brief(err))
	}
	if !slices.Contains(shown.Names, pki.APIServerName) {
		return fail("give the address of a master", "%s is not a master of Kijabi: it calls itself %v", t.Join, shown.Names)
	}
	return okay("%s answers", t.Join)
}

const (
	clockWarn = time.Second
	clockFail = 5 * time.Minute // new certificates are backdated by as much
)

// masterClock compares clocks by what a master says without knowing us. Nothing is
// believed of it but the time, and that only to warn: the token's pin is checked later.
func masterClock(ctx context.Context, m *Machine, t Target) Finding {
	if t.Join == "" {
		return okay("no master to compare with")
	}
	told, err := m.Network.Time(ctx, t.Join)
	if err != nil {
		return byCertificate(ctx, m, t, err)
	}
	ahead, doubt := offset(told)
	distance := max(ahead.Abs()-doubt, 0)
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	const fix = keepTime + " on this machine and on the masters"
	switch {
	case distance > clockFail:
		return fail(fix, "this machine's clock is %s %s the master's: certificates would not be valid here", ahead.Abs().Round(time.Second), direction)
	case distance > clockWarn:
		return warn(fix, "this machine's clock is %s %s the master's", ahead.Abs().Round(100*time.Millisecond), direction)
	}
	return okay("agrees with the master's within %s", (distance + doubt).Round(100*time.Millisecond))
}

// offset is by how much our clock is ahead, and how far that may be off: the master says
// whole seconds, and the answer took its time.
func offset(told MasterTime) (ahead, doubt time.Duration) {
	trip := told.Answered.Sub(told.Asked)
	ours := told.Asked.Add(trip / 2)
	return ours.Sub(told.Date.Add(time.Second / 2)), trip/2 + time.Second/2
}

// byCertificate judges by the validity of the master's certificate: wide, but enough to
// find a clock that would make every handshake fail.
func byCertificate(ctx context.Context, m *Machine, t Target, cause error) Finding {
	shown, err := m.Network.Greet(ctx, t.Join)
	if err != nil {
		return warn("", "not compared: the master does not answer")
	}
	now := m.Clock.Now()
	switch {
	case now.Before(shown.NotBefore):
		return fail(keepTime, "this machine's clock is at least %s behind the master's: its certificate is not valid yet here", shown.NotBefore.Sub(now).Round(time.Second))
	case now.After(shown.NotAfter):
		return fail(keepTime, "this machine's clock is ahead of the end of the master's certificate (%s)", shown.NotAfter.UTC().Format(time.RFC3339))
	}
	return warn("", "compared by the master's certificate only, since its REST door does not answer (%s)", access.Brief(cause))
}
