package campaign

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestCountsAddUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "campaign.jsonl")
	for _, r := range []Record{
		{Seed: 1, Checked: 100, Claims: 3, Rounds: []Round{{Fault: "F2/leader", Stalls: map[string]float64{"a": 500, "b": 700}}, {Fault: "F10/etcd", Stalls: map[string]float64{"a": 90}}}},
		{Seed: 2, Checked: 50, Lost: 1, Claims: 2, Violations: []string{"lost"}, Rounds: []Round{{Fault: "F2/leader", Stalls: map[string]float64{"a": 900, "b": 600}}}},
	} {
		if err := Append(file, &r); err != nil {
			t.Fatal(err)
		}
	}
	records, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Print(&out, records); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sessions 2", "checked 150, lost 1", "leader changes 5", "violations of all kinds 1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	var rows []string
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "F") {
			rows = append(rows, strings.Join(strings.Fields(line), " "))
		}
	}
	want := []string{"F2/leader 2 900 ms 900 ms 900 ms 600 ms 600 ms - -", "F10/etcd 1 90 ms 90 ms 90 ms 90 ms 90 ms - -"}
	if len(rows) != 2 || rows[0] != want[0] || rows[1] != want[1] {
		t.Errorf("rows %q, want %q", rows, want)
	}
}
