// Package campaign runs sessions - a cluster, a workload, one fault after the other, and the
// checks at the end - and keeps what they found in a file of JSON lines, whose counts add up.
package campaign

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Round is one fault and what came of it. Times are in milliseconds.
type Round struct {
	Fault  string `json:"fault"`
	Leader string `json:"leader"`
	// Before and After are the epochs before the fault and once all is whole again.
	Before uint64 `json:"before"`
	After  uint64 `json:"after"`
	// Stalls are the longest times without an acknowledged write, from the fault until it was
	// healed, through each surviving master.
	Stalls map[string]float64 `json:"stalls,omitempty"`
	// Whole is how long it took from healing until all masters were whole.
	Whole float64 `json:"whole"`
	// Machine is the longest time for which this host did not run a program that wanted to.
	Machine float64 `json:"machine"`
}

// worst is the longest stall through any surviving master, best the shortest.
func (r Round) worst() float64 {
	var worst float64
	for _, stall := range r.Stalls {
		worst = max(worst, stall)
	}
	return worst
}

func (r Round) best() float64 {
	best := -1.0
	for _, stall := range r.Stalls {
		if best < 0 || stall < best {
			best = stall
		}
	}
	return best
}

// Record is what one session found.
type Record struct {
	Time    time.Time `json:"time"`
	Seed    uint64    `json:"seed"`
	Commit  string    `json:"commit"`
	Masters int       `json:"masters"`
	Faults  string    `json:"faults"`
	Rounds  []Round   `json:"rounds"`

	Operations int `json:"operations"`
	Unknown    int `json:"unknown"` // writes whose clients were not told what became of them
	Keys       int `json:"keys"`    // histories checked for linearizability
	Checked    int `json:"checked"` // acknowledged writes looked up
	Lost       int `json:"lost"`

	Claims           int `json:"claims"` // leader changes
	Unexplained      int `json:"unexplained"`
	Batches          int `json:"batches"`
	Stale            int `json:"stale"` // batches of an epoch that was over
	ComponentWrites  int `json:"componentWrites"`
	ComponentsFenced int `json:"componentsFenced"` // those that were refused
	Leftovers        int `json:"leftovers"`        // writes under an epoch that is over, all refused

	WatchEvents     int `json:"watchEvents"`
	WatchStreams    int `json:"watchStreams"`
	Relists         int `json:"relists"`
	WatchViolations int `json:"watchViolations"`

	Audited int   `json:"audited"`
	RSS     int64 `json:"rss"` // most memory of an apiserver in bytes

	// Violations describe everything that was wrong; a session that could not be carried
	// through has one, too.
	Violations []string `json:"violations,omitempty"`
}

// Append adds a record to a campaign's file.
func Append(file string, r *Record) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(f).Encode(r), f.Close())
}

// Read returns the records of a campaign.
func Read(file string) ([]Record, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var all []Record
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 64<<20)
	for scanner.Scan() {
		var r Record
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", file, len(all)+1, err)
		}
		all = append(all, r)
	}
	return all, scanner.Err()
}

// Print writes the sums of records.
func Print(out io.Writer, records []Record) error {
	var sum Record
	rounds := map[string][]Round{}
	violations := 0
	for _, r := range records {
		sum.Operations += r.Operations
		sum.Unknown += r.Unknown
		sum.Keys += r.Keys
		sum.Checked += r.Checked
		sum.Lost += r.Lost
		sum.Claims += r.Claims
		sum.Unexplained += r.Unexplained
		sum.Batches += r.Batches
		sum.Stale += r.Stale
		sum.ComponentWrites += r.ComponentWrites
		sum.ComponentsFenced += r.ComponentsFenced
		sum.Leftovers += r.Leftovers
		sum.WatchEvents += r.WatchEvents
		sum.WatchStreams += r.WatchStreams
		sum.Relists += r.Relists
		sum.WatchViolations += r.WatchViolations
		sum.Audited += r.Audited
		sum.RSS = max(sum.RSS, r.RSS)
		violations += len(r.Violations)
		for _, round := range r.Rounds {
			rounds[round.Fault] = append(rounds[round.Fault], round)
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "fault\ttimes\tnext acknowledged write, every survivor: p50\tp99\tmax\tfirst survivor: p50\tmax\twhole again p50\tmax")
	for _, fault := range sorted(rounds) {
		all := rounds[fault]
		worst, best, whole := column(all, Round.worst), column(all, Round.best), column(all, func(r Round) float64 { return r.Whole })
		_, _ = fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", fault, len(all), quantile(worst, 0.5), quantile(worst, 0.99),
			quantile(worst, 1), quantile(best, 0.5), quantile(best, 1), quantile(whole, 0.5), quantile(whole, 1))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	bound := "none"
	if sum.Claims > 0 {
		bound = fmt.Sprintf("%.4f%% of leader changes", 300/float64(sum.Claims))
	}
	_, err := fmt.Fprintf(out, `
sessions %d, operations %d, of them of unknown outcome %d
acknowledged writes checked %d, lost %d
histories checked for linearizability %d
leader changes %d, without a fault and without a stall of this host %d
batches %d, committed under a stale epoch %d (95%% bound if none: %s)
writes of components checked %d, refused as fenced %d; writes under an epoch that is over refused %d
watch events %d in %d streams, lists in between %d, violations %d
audited requests %d; most memory of an apiserver %d MiB
violations of all kinds %d
`, len(records), sum.Operations, sum.Unknown, sum.Checked, sum.Lost, sum.Keys, sum.Claims, sum.Unexplained, sum.Batches, sum.Stale, bound,
		sum.ComponentWrites, sum.ComponentsFenced, sum.Leftovers, sum.WatchEvents, sum.WatchStreams, sum.Relists, sum.WatchViolations, sum.Audited, sum.RSS>>20, violations)
	return err
}

func sorted(rounds map[string][]Round) []string {
	names := make([]string, 0, len(rounds))
	for name := range rounds {
		names = append(names, name)
	}
	number := func(name string) int {
		n := 0
		_, _ = fmt.Sscanf(name, "F%d", &n) // all begin like this
		return n
	}
	slices.SortFunc(names, func(a, b string) int {
		if number(a) != number(b) {
			return number(a) - number(b)
		}
		return strings.Compare(a, b)
	})
	return names
}

// column are the values of rounds that have one, in order.
func column(rounds []Round, value func(Round) float64) []float64 {
	var all []float64
	for _, r := range rounds {
		if v := value(r); v > 0 {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return all
}

func quantile(ordered []float64, q float64) string {
	if len(ordered) == 0 {
		return "-"
	}
	at := int(q * float64(len(ordered)))
	return fmt.Sprintf("%.0f ms", ordered[min(at, len(ordered)-1)])
}
