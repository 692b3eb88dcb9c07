package cronjob

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // schedules name time zones, and a machine may have no data of its own

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

// manyMissed is the number of missed starts above which a user is warned: a clock may be wrong.
const manyMissed = 100

// schedule is when jobs are due. Times are those of the clock on the wall: in the night when it
// is set forward, a time that is skipped has no job, and when it is set back a time that comes
// twice has two.
type schedule struct{ cron.Schedule }

// parseSchedule reads the schedule of a cron job. problem is what users are told when it cannot
// be read; the API has refused most of that.
func parseSchedule(c *batchv1.CronJob) (s schedule, problem *event) {
	text := c.Spec.Schedule
	if zone := ptr.Deref(c.Spec.TimeZone, ""); zone != "" {
		if _, err := time.LoadLocation(zone); err != nil {
			return s, warning("UnknownTimeZone", fmt.Sprintf("invalid timeZone: %q: %s", zone, err))
		}
		if !strings.Contains(text, "TZ") {
			text = "TZ=" + zone + " " + text
		}
	}
	parsed, err := cron.ParseStandard(text)
	if err != nil {
		return s, warning("UnparseableSchedule", fmt.Sprintf("unparseable schedule: %q : %s", c.Spec.Schedule, err))
	}
	return schedule{parsed}, nil
}

// possible says whether there is any time of the schedule after t; there is none of February 31.
func (s schedule) possible(t time.Time) bool { return !s.Next(t).IsZero() }

// newest returns the newest time of the schedule after since and not after now, zero if there
// is none, and how many there are, but no more than one above manyMissed.
func (s schedule) newest(since, now time.Time) (newest time.Time, count int) {
	if every, ok := s.Schedule.(cron.ConstantDelaySchedule); ok {
		n := int(now.Sub(since) / every.Delay)
		if n < 1 {
			return time.Time{}, 0
		}
		return since.Truncate(time.Second).Add(time.Duration(n) * every.Delay), min(n, manyMissed+1)
	}
	for t := s.Next(since); !t.IsZero() && !t.After(now); t = s.Next(t) {
		newest = t
		if count++; count > manyMissed {
			return s.last(since, now), count
		}
	}
	return newest, count
}

// last finds the newest time after since and not after now, of which there is one, without
// going through all of them: it looks back further and further.
func (s schedule) last(since, now time.Time) time.Time {
	for back := time.Minute; ; back *= 2 {
		from := now.Add(-back)
		if from.Before(since) {
			from = since
		}
		found := time.Time{}
		for t := s.Next(from); !t.IsZero() && !t.After(now); t = s.Next(t) {
			found = t
		}
		if !found.IsZero() || from.Equal(since) {
			return found
		}
	}
}

// after is the first time after now. anchor is a time of the schedule, or its beginning: what
// runs every so often counts from there.
func (s schedule) after(anchor, now time.Time) time.Time {
	if _, ok := s.Schedule.(cron.ConstantDelaySchedule); !ok {
		return s.Next(now)
	}
	if newest, _ := s.newest(anchor, now); !newest.IsZero() {
		anchor = newest
	}
	return s.Next(anchor)
}
